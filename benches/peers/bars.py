"""Promises that need no peer: each takes a Place with tidegate, and returns [(what, PASS or FAIL, the figure)]."""
import statistics
import subprocess
import threading
import time
import urllib.request

import machine
from machine import Skip
from place import MAX_NOISE, end
from proxies import find
from scenarios import CONNECTIONS_AT_ONCE, SHORT_RATE, Held, per_unit

RATE = 500
HEDGE_MS = 250  # the default of `connect.hedge`
MANY = 10000


def verdict(what, held, figure):
    return [what, "PASS" if held else "FAIL", figure]


def soak(place):
    """Idle connections beside busy ones: no error, no growth."""
    secs = 6 if place.options.quick else 60
    idle, busy = (2000 if place.options.quick else machine.most_connections(10200) - 200), 200
    place.with_backends()
    with Held(place, idle) as held:
        client = place.client("message", "--conns", busy, "--rate", 2000, "--secs", secs, "--warm", 0)
        time.sleep(secs / 6)
        early = machine.memory(place.pids())
        time.sleep(secs * 4 / 6)
        late = machine.memory(place.pids())
        result = place.watch(client)
        lost = held.let_go()["lost"]
    short_of = "" if idle >= 10000 or place.options.quick else f" (the descriptor limit allows no more than {idle})"
    grown = late["resident_kib"] - early["resident_kib"]
    more = late["descriptors"] - early["descriptors"]
    return [
        verdict(f"{idle} idle and {busy} busy connections for {secs} s: no error{short_of}",
                held.established == idle and not lost and not result["errors"] and result["ok"] > 0,
                f"{held.established} established, {lost} lost, {result['errors']} errors in {result['ok']} messages"),
        verdict("and no growth", grown <= 256 and more <= 0,
                f"{early['resident_kib']} KiB resident after {secs / 6:.0f} s, {grown:+d} KiB and {more:+d} descriptors "
                f"{secs * 4 / 6:.0f} s later"),
    ]


def kill(place):
    """SIGKILL of one of three backends under steady new connections."""
    three_backends(place)

    def fault():
        place.backends[1].kill()
        place.backends[1].wait()
        return time.monotonic()

    result, at = steady(place, fault)
    cut, failed = in_flight(result, at)
    return [verdict(f"SIGKILL of one of three backends under {RATE} connections a second: 0 failed", not failed,
                    f"{failed} failed of {result['ok'] + result['errors']}{cut}, "
                    f"slowest {result['max_us'] / 1e3:.1f} ms{disturbed(result)}")]


def hole(place):
    """The same with that backend's packets dropped."""
    nft = find("nft")
    if not nft or not place.own_network:
        raise Skip("needs nft (package nftables) and a network namespace")
    three_backends(place)
    port = place.addresses[1].rsplit(":", 1)[1]

    def fault():
        # New connections first, everything a moment later: what is in flight may end, so every failure is the proxy's.
        at = time.monotonic()
        drop(nft, "first", f"tcp dport {port} tcp flags & (syn | ack) == syn")
        time.sleep(0.2)
        drop(nft, "second", f"tcp dport {port}")
        drop(nft, "third", f"tcp sport {port}")
        return at

    result, at = steady(place, fault)
    cut, failed = in_flight(result, at)
    limit = HEDGE_MS + 50
    return [
        verdict(f"one of three backends' packets dropped under {RATE} connections a second: 0 failed", not failed,
                f"{failed} failed of {result['ok'] + result['errors']}{cut}"),
        verdict(f"and none slower than the hedge and 50 ms ({limit} ms)", result["max_us"] <= limit * 1e3,
                f"slowest {result['max_us'] / 1e3:.1f} ms, p99 {result['p99_us'] / 1e3:.1f} ms{disturbed(result)}"),
    ]


def start(place):
    """From the start with many backends to the first relayed byte."""
    place.addresses = [f"127.{1 + i // 62500}.{i // 250 % 250}.{1 + i % 250}:9000" for i in range(MANY)]
    place.start_backend(["0.0.0.0:9000"])
    took = place.start_proxy()
    return [verdict(f"{MANY} backends: start to first relayed byte < 1 s", took < 1,
                    f"{took * 1000:.0f} ms, {machine.memory(place.pids())['resident_kib']} KiB resident")]


def access_log(place):
    """CPU of a short connection with and without its line, in turns; nothing else differs."""
    rounds = 1 if place.options.quick else 9
    place.addresses = [f"127.0.0.1:{place.port(9001 + i)}" for i in range(4)]
    place.start_backend(place.addresses)
    path, found, lines, errors = f"{place.folder}/access.log", {"": [], path_keys(place): []}, 0, 0
    for number in range(rounds):
        for keys in list(found)[::1 if number % 2 else -1]:
            place.log_keys = keys
            place.start_proxy()
            r = place.load("short", "--conns", CONNECTIONS_AT_ONCE, "--rate", SHORT_RATE,
                           "--secs", place.options.secs, "--warm", 0.3)
            end(place.process)
            found[keys].append(per_unit(r))
            errors += r["errors"]
            if keys:
                with open(path) as log:
                    lines = sum(1 for _ in log)
    without, with_it = (statistics.median(figures) for figures in found.values())
    added = 100 * (with_it / without - 1)
    return [verdict("a line of the access log for each of 2,000 connections a second: at most 5 % more CPU",
                    added <= 5 and not errors and lines > 0,
                    f"{without:.2f} us of CPU a connection without it, {with_it:.2f} us with it: {added:+.1f} % "
                    f"(medians of {rounds}; {errors} errors; {lines} lines in the file)")]


def path_keys(place):
    return f', format: json, access: "{place.folder}/access.log"'


def scrape(place):
    """How long /metrics of many backends takes over HTTP while connections come."""
    many, times, size = 1000, [], 0
    place.addresses = [f"127.1.{i // 250}.{1 + i % 250}:9000" for i in range(many)]
    place.start_backend(["0.0.0.0:9000"])
    port = place.port(9900)
    place.head = f'admin: {{ bind: "127.0.0.1:{port}" }}'
    place.start_proxy()
    client = place.client("short", "--rate", 1000, "--secs", 4, "--warm", 0.3)

    def look():
        for _ in range(20):
            begun = time.monotonic()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                nonlocal size
                size = len(answer.read())
            times.append(1000 * (time.monotonic() - begun))
            time.sleep(0.1)

    scraper = threading.Timer(1, look)
    scraper.start()
    result = place.watch(client)
    scraper.join()
    return [verdict(f"/metrics of {many} backends under 1,000 connections a second: at most 50 ms",
                    len(times) == 20 and max(times) <= 50 and not result["errors"],
                    f"median {statistics.median(times):.1f} ms, slowest {max(times):.1f} ms of {len(times)}, "
                    f"{size / 2**20:.1f} MiB{disturbed(result)}")]


BARS = {"soak": soak, "kill": kill, "hole": hole, "start": start, "access-log": access_log, "scrape": scrape}


# ------------------------------------------------------------------ parts

def three_backends(place):
    place.addresses = [f"127.0.0.1:{place.port(9001 + i)}" for i in range(3)]
    for number, address in enumerate(place.addresses):
        place.start_backend([address], number)
    place.start_proxy()


def steady(place, fault, rate=RATE):
    """Opens `rate` connections a second and calls `fault` two seconds in, which says when it happened. (result, when)"""
    secs = 5 if place.options.quick else 12
    client = place.client("short", "--rate", rate, "--secs", secs, "--warm", 0, "--timeout-ms", 10000)
    when = []
    timer = threading.Timer(2, lambda: when.append(fault()))
    timer.start()
    result = place.watch(client)
    timer.join()
    return result, when[0]


def disturbed(result):
    """A remark where others used the machine: then it is they who made some wait."""
    return f" (others took {result['noise'] * 100:.0f} % of the machine)" if result["noise"] > MAX_NOISE else ""


def in_flight(result, at):
    """(a remark, how many failed). A connection whose request was already with the backend when that died cannot be
    saved by any proxy of bytes: those that began before `at` are named, not counted."""
    cut = sum(1 for e in result["first_errors"] if e["start_s"] < at)
    for error in result["first_errors"][:3]:
        print(f"  {error['error']}: began {1000 * (error['start_s'] - at):+.1f} ms from the fault, "
              f"took {1000 * (error['end_s'] - error['start_s']):.1f} ms")
    return (f" ({cut} more were with the backend when it died)" if cut else ""), result["errors"] - cut


def drop(nft, table, match):
    rules = f"table inet {table} {{\n chain in {{\n type filter hook input priority 0\n {match} drop\n }}\n}}\n"
    subprocess.run([nft, "-f", "-"], input=rules, text=True, check=True)
