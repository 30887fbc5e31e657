"""Promises about health and failover: each takes a Place and returns [(what, PASS or FAIL, the figure)].

Those of `BESIDE` are also measured with the peers that can do it, as figures without a verdict.
"""
import datetime
import itertools
import re
import signal
import socket
import statistics
import time

import machine
from bars import RATE, disturbed, drop, in_flight, steady, verdict
from machine import Skip, read
from place import end
from proxies import find

TIMEOUT_MS = 1000  # the default of `connect.timeout`
FIRST_BYTE_MS = 250
MOVES = 50
FLEET = 5000


def active_kill(place):
    """SIGKILL of the active backend of a hot standby under steady new connections."""
    standby(place)

    def fault():
        place.backends[0].kill()
        place.backends[0].wait()
        return time.monotonic()

    result, at = steady(place, fault)
    cut, failed = in_flight(result, at)
    rows = [verdict(f"SIGKILL of the active under {RATE} connections a second: 0 failed", not failed,
                    f"{failed} failed of {result['ok'] + result['errors']}{cut}, "
                    f"slowest {result['max_us'] / 1e3:.1f} ms{disturbed(result)}")]
    if place.proxy.label == "tidegate":
        report = reports(place)[0]
        rows.append(verdict("and the standby serves <= 5 ms after the first refused connect", report["first"] <= 5,
                            f"{report['first']} ms ({report['text']})"))
    return rows


def active_hole(place):
    """The packets of the active backend are dropped."""
    nft = find("nft")
    if not nft or not place.own_network:
        raise Skip("needs nft (package nftables) and a network namespace")
    standby(place)
    port = place.addresses[0].rsplit(":", 1)[1]

    def fault():
        at = time.monotonic()
        drop(nft, "first", f"tcp dport {port} tcp flags & (syn | ack) == syn")
        return at

    result, at = steady(place, fault)
    cut, failed = in_flight(result, at)
    limit = TIMEOUT_MS + 50
    rows = [verdict(f"the active's packets dropped under {RATE} connections a second: none slower than "
                    f"connect.timeout and 50 ms ({limit} ms)", not failed and result["max_us"] <= limit * 1e3,
                    f"slowest {result['max_us'] / 1e3:.1f} ms, {result['over_200ms']} over 200 ms, "
                    f"{failed} failed of {result['ok'] + result['errors']}{cut}{disturbed(result)}")]
    if place.proxy.label == "tidegate":
        # Those that came within one timeout waited; whoever waited after the takeover would be beyond them.
        report, most = reports(place)[0], RATE * limit / 1e3 * 1.15
        rows.append(verdict("and after the eviction none waits", result["over_200ms"] <= most,
                            f"{result['over_200ms']} waited, {RATE} came in each second ({report['text']})"))
    return rows


def frozen(place):
    """SIGSTOP of one of four: it accepts and never answers."""
    place.pool_keys = f"outlier_detection: {{ first_byte: {FIRST_BYTE_MS}ms }}"
    place.addresses = [f"127.0.0.1:{place.port(9001 + i)}" for i in range(4)]
    for number, address in enumerate(place.addresses):
        place.start_backend([address], number)
    place.start_proxy()

    def fault():
        place.backends[1].send_signal(signal.SIGSTOP)
        return time.monotonic()

    result, _ = steady(place, fault, rate=1000)
    place.backends[1].send_signal(signal.SIGCONT)
    delayed = result["over_200ms"] + result["errors"]
    return [verdict("SIGSTOP of one of four under 1000 requests a second: <= 100 delayed over 200 ms", delayed <= 100,
                    f"{delayed} of {result['ok'] + result['errors']} delayed or never answered{disturbed(result)}")]


def takeovers(place):
    """The role moves back and forth while clients come. One process serves both backends, so that what it accepts at
    which of them has one order."""
    checked, always = Door(), Door()
    place.pool_keys = (f"failover: {{ failback: auto }}\n    health_check: {{ interval: 40ms, fast_interval: 20ms, "
                       f"timeout: 40ms, rise: 1, fall: 1 }}")
    place.backend_keys = [f"health_port: {checked.port}", f"health_port: {always.port}"]
    place.strategy = "hot_standby"
    moves = 10 if place.options.quick else MOVES
    logged = one_process(place, 2)

    def fault():
        at = time.monotonic()
        for number in range(moves):
            checked.close() if number % 2 == 0 else checked.open()
            time.sleep(0.16)
        return at

    result, _ = steady(place, fault)
    made, slowest = len(reports(place)), max(report["first"] for report in reports(place))
    accepted = logged()
    changes = [(b[0] - a[0]) * 1e3 for a, b in itertools.pairwise(accepted) if a[1] != b[1]]
    return [verdict(f"{moves} takeovers in a row under {RATE} connections a second: 0 failed",
                    not result["errors"] and made == moves,
                    f"{result['errors']} failed of {result['ok'] + result['errors']}, {made} takeovers reported, the "
                    f"slowest first connection after {slowest} ms, slowest request {result['max_us'] / 1e3:.1f} ms"
                    f"{disturbed(result)}"),
            verdict("by the backends' accept logs never two actives", len(changes) == made,
                    f"in {len(accepted)} accepted connections the backend changed {len(changes)} times; from the last one of "
                    f"the old to the first of the new {statistics.median(changes):.1f} ms in the middle, "
                    f"{max(changes):.1f} ms at most (a connection every {1e3 / RATE:.0f} ms)")]


def in_force(place):
    """A backend of four is evicted and reinstated again and again: when the last connection comes after that."""
    checked, always = Door(), Door()
    place.threads, place.log_level = 4, "info"
    place.pool_keys = "health_check: { interval: 40ms, fast_interval: 20ms, timeout: 40ms, rise: 1, fall: 1 }"
    place.backend_keys = [f"health_port: {checked.port}"] + [f"health_port: {always.port}"] * 3
    rounds = 5 if place.options.quick else 40
    logged = one_process(place, 4)

    def fault():
        at = time.monotonic()
        for _ in range(rounds):
            checked.close()
            time.sleep(0.1)
            checked.open()
            time.sleep(0.1)
        return at

    result, _ = steady(place, fault, rate=2000)
    text = log_of(place)
    times = [(when(line), " evicted" in line) for line in text.splitlines() if " evicted" in line or " reinstated" in line]
    at_first = [at for at, number in logged() if number == 0]
    late = []
    for (at, is_evicted), (until, _) in itertools.pairwise(times):
        if is_evicted:
            # The log has milliseconds, cut off.
            late.append(max([0] + [(a - at) * 1e3 for a in at_first if at < a < until - 0.001]))
    if len(late) < rounds - 1:
        raise RuntimeError(f"only {len(late)} evictions: {text[-400:]}")
    return [verdict(f"a decision is in force within 10 ms on every one of {place.threads} threads, under 2000 connections a second",
                    max(late) <= 10 and not result["errors"],
                    f"after {len(late)} evictions the last connection came {statistics.median(late):.1f} ms later in the "
                    f"middle, {max(late):.1f} ms at most; {result['errors']} failed of {result['ok'] + result['errors']}"
                    f"{disturbed(result)}")]


def checks(place):
    """TCP checks of a large fleet: processor time."""
    if not place.own_network:
        raise Skip("needs a network namespace")
    place.pool_keys = "health_check: { interval: 2s }"
    place.checked = True
    place.addresses = [f"127.1.{i // 250}.{1 + i % 250}:9000" for i in range(FLEET)]
    place.start_backend(["0.0.0.0:9000"])
    place.start_proxy()
    secs = 4 if place.options.quick else 12
    time.sleep(5)
    before, begun, opened = machine.cpu_seconds(place.pids()), time.monotonic(), active_opens()
    time.sleep(secs)
    used, took = machine.cpu_seconds(place.pids()) - before, time.monotonic() - begun
    # Counted, not supposed: some check less often than they are told.
    made = active_opens() - opened
    if made < FLEET / 2 * took / 10:
        raise RuntimeError(f"only {made} checks in {took:.1f} s")
    each, share = used / made * 1e6, used / took
    figure = (f"{each:.0f} us each, {share * 100:.0f} % of a core for {FLEET} backends every 2 s "
              f"({made / took:.0f} checks a second)")
    return [verdict("one TCP check costs <= 60 us of CPU", each <= 60, figure),
            verdict(f"{FLEET} backends at 2 s work on one core with room", share <= 0.5, figure)]


FAILOVER = {"active-kill": active_kill, "active-hole": active_hole, "frozen": frozen, "takeovers": takeovers,
            "in-force": in_force, "checks": checks}
BESIDE = ("active-kill", "active-hole", "frozen", "checks")


def standby(place):
    """A backend that is active and one behind it, each a process of its own; the proxy before them."""
    place.strategy = "hot_standby"
    place.addresses = [f"127.0.0.1:{place.port(9001 + i)}" for i in range(2)]
    for number, address in enumerate(place.addresses):
        place.start_backend([address], number)
    place.start_proxy()


class Door:
    """A port that checks are made at: open or closed. Nobody accepts; the kernel's answer is enough."""

    def __init__(self):
        self.port, self.socket = 0, None
        self.open()

    def open(self):
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(("127.0.0.1", self.port))
        self.port = self.socket.getsockname()[1]
        self.socket.listen(4096)

    def close(self):
        self.socket.close()


def one_process(place, count):
    """`count` backends in one process, the proxy before them; a function that gives what was accepted, in order, as
    (time, number of the backend), and ends the backends."""
    path = f"{place.folder}/accepts"
    place.addresses = [f"127.0.0.1:{place.port(9001 + i)}" for i in range(count)]
    place.start_backend(place.addresses, accepts=path)
    place.start_proxy()

    def logged():
        end(place.backends[0])
        return [(float(at), int(number)) for at, number in map(str.split, read(path).splitlines())]
    return logged


def log_of(place):
    return re.sub(r"\x1b\[[0-9;]*m", "", read(f"{place.folder}/proxy.log"))


def when(line):
    """The time of a line of the log, in seconds since the epoch."""
    return datetime.datetime.fromisoformat(line.split()[0]).timestamp()


def active_opens():
    """TCP connects so far in this network namespace."""
    names, values = [line.split() for line in read("/proc/net/snmp").splitlines() if line.startswith("Tcp:")]
    return int(values[names.index("ActiveOpens")])


def reports(place):
    """The takeover reports in the log."""
    text = log_of(place)
    pattern = r"(detected in \d+ ms, first connection after (\d+) ms, \d+ retried, \d+ cut, \d+ lost)"
    found = [{"text": whole, "first": int(ms)} for whole, ms in re.findall(pattern, text)]
    if not found:
        raise RuntimeError(f"no takeover was reported: {text[-400:]}")
    return found
