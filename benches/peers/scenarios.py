"""What is measured of every proxy: each scenario takes a Place and returns {metric: number}."""
import json
import re
import shutil
import signal
import subprocess
import threading
import time

import machine
from machine import Skip, read

CONNECTIONS_AT_ONCE = 64
SHORT_RATE, MESSAGE_RATE = 2000, 10000
MESSAGE_CONNECTIONS = 100
BULK_CONNECTIONS = 16
GIB = 2 ** 30


def short(place):
    """A new connection per request: as fast as it goes, then at a fixed rate."""
    return both_loops(place, "short", CONNECTIONS_AT_ONCE, SHORT_RATE)


def message(place):
    """64 bytes there and back on long-lived connections: as fast as it goes, then at a fixed rate."""
    return both_loops(place, "message", MESSAGE_CONNECTIONS, MESSAGE_RATE)


def both_loops(place, mode, connections, rate):
    place.with_backends()
    window = ["--secs", place.options.secs, "--warm", 0.3]
    r = place.load(mode, "--conns", connections, *window)
    found = {"cpu_us": per_unit(r), "a_second": r["ok_window"] / r["window_s"], "errors": r["errors"],
             "noise": r["noise"]}
    r = place.load(mode, "--conns", connections, "--rate", rate, *window)
    return {**found, "rate_cpu_us": per_unit(r), "rate_p50_us": r["p50_us"], "rate_p99_us": r["p99_us"],
            "errors": found["errors"] + r["errors"], "noise": max(found["noise"], r["noise"])}


def per_unit(result):
    """CPU microseconds of the proxy for each request answered within the window."""
    return result["cpu_s"] / max(result["ok_window"], 1) * 1e6


def bulk(place):
    """Bytes from backend to client, over one connection and over sixteen."""
    place.with_backends()
    found = {"noise": 0.0, "errors": 0}
    for connections in (BULK_CONNECTIONS,) if place.options.quick else (1, BULK_CONNECTIONS):
        r = place.load("bulk", "--conns", connections, "--secs", place.options.secs, "--warm", 0.3)
        found[f"c{connections}_cpu_s_gib"] = r["cpu_s"] / max(r["bytes_window"], 1) * GIB
        found[f"c{connections}_gbit_s"] = r["bytes_window"] * 8 / r["window_s"] / 1e9
        found["noise"] = max(found["noise"], r["noise"])
        found["errors"] += r["errors"]
    return found


def idle(place):
    """Resident memory per connection: each was used once and left alone."""
    place.with_backends()
    before = machine.memory(place.pids())
    wanted = 2000 if place.options.quick else machine.most_connections(10000)
    with Held(place, wanted) as held:
        time.sleep(0.5 if place.options.quick else 1.5)  # what the proxy does behind the last answer
        after = machine.memory(place.pids())
        lost = held.let_go()["lost"]
    count = max(held.established, 1)
    return {"established": held.established, "lost": lost, "start_kib": before["resident_kib"],
            "resident_b": (after["resident_kib"] - before["resident_kib"]) * 1024 / count,
            "descriptors": (after["descriptors"] - before["descriptors"]) / count}


class Held:
    """Idle connections held by a client process."""

    def __init__(self, place, wanted):
        self.process = place.client("idle", "--conns", wanted, stdin=subprocess.PIPE)
        watchdog = threading.Timer(90, self.process.kill)
        watchdog.start()
        words = self.process.stdout.readline().split()
        watchdog.cancel()
        self.established = int(words[1]) if words else 0

    def let_go(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        result = json.loads(self.process.stdout.readline())
        self.process.wait(10)
        return result

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def syscalls(place):
    """System calls per connection and per round trip, one at a time (alone) and many at a time (busy), counted by
    strace, which slows the proxy: only the counts mean anything."""
    strace = shutil.which("strace")
    if not strace:
        raise Skip("strace is not installed")
    place.with_backends()
    secs = 0.7 if place.options.quick else 1.5
    found = {}
    for name, mode, connections in (("short_alone", "short", 1), ("short_busy", "short", CONNECTIONS_AT_ONCE),
                                    ("message_alone", "message", 1), ("message_busy", "message", MESSAGE_CONNECTIONS)):
        path = f"{place.folder}/strace"
        attach = [word for pid in place.pids() for word in ("-p", str(pid))]
        tracer = subprocess.Popen([strace, "-f", "-c", "-U", "calls,name", "-o", path, *attach],
                                  stderr=subprocess.PIPE, text=True)
        if "attached" not in tracer.stderr.readline():
            raise Skip("strace may not attach")
        result = place.load_once(mode, "--conns", connections, "--secs", secs, "--warm", 0)
        tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=10)
        calls = {m[2]: int(m[1]) for m in re.finditer(r"^\s*(\d+)\s+([a-z_0-9]+)\s*$", read(path), re.M)}
        calls.pop("total", None)
        found[name] = sum(calls.values()) / max(result["ok"], 1)
        found.update({f"{name}.{call}": n / max(result["ok"], 1) for call, n in calls.items()})
    return found


SCENARIOS = {"short": short, "message": message, "bulk": bulk, "idle": idle, "syscalls": syscalls}
