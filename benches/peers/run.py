#!/usr/bin/env python3
"""tidegate beside its peers, on this machine.

Builds the release binary, runs tidegate, HAProxy (as shipped, and with forced splice) and nginx stream one at a time
with equivalent configurations, interleaved over several rounds (A B C, C B A, ...), and prints a table of medians and
minima with the ratio against the better peer, ready for docs/performance.md. Peers that are not installed are named
and left out.

  scenarios, of every proxy (the default: all five)
    short      a new connection per request, 64 bytes there and back, the server closes: saturated, then 2,000 a second
    message    64 bytes there and back on 100 long-lived connections: saturated, then 10,000 a second
    bulk       bytes from the backend to the client over 1 and over 16 connections
    idle       10,000 connections, each used once and left alone: resident memory
    syscalls   system calls per connection and per round trip, by strace
  promises, of tidegate alone (`bars` = all six): PASS or FAIL with the figure
    soak       10,000 idle connections and 200 busy ones for 60 s: no error, no growth
    kill       SIGKILL of one of three backends under 500 new connections a second: 0 failed
    hole       the same with that backend's packets dropped: 0 failed, none slower than the hedge and 50 ms
    start      10,000 backends: start to first relayed byte in less than a second
    reload     20 reloads in 60 s under 2,000 connections a second and 200 hash-checked streams: 0 refused, reset or cut
    reload-many  10,000 backends: a reload in less than a second, p99 of a connection meanwhile within 20 %
    access-log what a line for every connection adds to the CPU of a short one: at most 5 %
    scrape     /metrics of 1,000 backends under 1,000 new connections a second: at most 50 ms
  failover = the following, beside the peers that can do it:
    active-kill, active-hole    SIGKILL of the active of a hot standby, and its packets dropped
    frozen     SIGSTOP of one of four under 1,000 requests a second, first_byte: 250ms
    takeovers  50 takeovers in a row, and the backends' accept logs: never two actives
    in-force   evictions under 2,000 connections a second: when the last one comes
    checks     processor time of TCP checks, 5,000 backends at 2 s

CPU figures are CPU time of the proxy's processes per unit of work, kernel work in their context included: the figure
to trust. A window in which others took more than 3 % of the machine is repeated, twice at most. The load client and
the backends are C, compiled by cc into the target directory on first use. Every measurement has a network namespace of
its own where that is allowed (root, or user namespaces); elsewhere it uses free ports of the machine's loopback device.
With one thread the proxy is pinned to the last core and everything else to the first.

Exits with 1 when something could not be measured or, but for --quick, when a bar is not held.
"""
import argparse
import json
import os
import shlex
import subprocess
import sys
import time

import machine
from bars import BARS
from failover import BESIDE, FAILOVER
from machine import Skip
from place import Place, compile_load
from proxies import Tidegate, peers
from reload import RELOAD
from scenarios import SCENARIOS
from table import print_bars, print_table

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BARS = {**BARS, **RELOAD}
UNABLE = {("checks", "nginx stream")}  # it makes no checks
ONCE = {"syscalls"}  # counts: more rounds say no more


def arguments():
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    parser.add_argument("what", nargs="*", metavar="SCENARIO", help=f"{', '.join([*SCENARIOS, *BARS, *FAILOVER])}, bars, failover or all")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--secs", type=float, default=2.0, help="length of each measured window")
    parser.add_argument("--threads", type=int, default=1, help="of every proxy; nothing is pinned with 2 or more")
    parser.add_argument("--quick", action="store_true", help="a smoke run of less than a minute: figures mean little")
    parser.add_argument("--congestion", metavar="NAME", help="TCP congestion control (default: the machine's)")
    parser.add_argument("--binary", help="measure this tidegate (default: build the release binary)")
    parser.add_argument("--json", metavar="FILE", help="write every figure of every round")
    options = parser.parse_args()
    known = {**SCENARIOS, **BARS, **FAILOVER}
    options.what = [w for what in options.what or list(SCENARIOS)
                    for w in {"all": list(known), "bars": list(BARS), "failover": list(FAILOVER)}.get(what, [what])]
    for what in options.what:
        if what not in known:
            parser.error(f"unknown scenario \"{what}\"; there are {', '.join(known)}, bars, failover and all")
    if options.quick:
        options.rounds, options.secs = 1, 0.7
    options.failed = False
    return options


def build(options):
    target = os.environ.get("CARGO_TARGET_DIR") or os.path.join(ROOT, "target")
    options.backend, options.client = compile_load(os.path.join(target, "peers"))
    if not options.binary:
        subprocess.run(["cargo", "build", "--release", "--bin", "tidegate"], cwd=ROOT, check=True)
        options.binary = os.path.join(target, "release", "tidegate")
    return os.path.abspath(options.binary)


def measure(scenario, proxy, options):
    """One scenario with one proxy, in a child process. Raises Skip and RuntimeError."""
    def work():
        with Place(proxy, options) as place:
            return scenario(place)
    return machine.in_child(work)


def rounds(names, proxies, options):
    """{scenario: {label: [figures of each round]}}"""
    found = {name: {p.label: [] for p in proxies} for name in names}
    for number in range(options.rounds):
        for name in names:
            if name in ONCE and number:
                continue
            for proxy in proxies if number % 2 == 0 else proxies[::-1]:
                if not proxy.shipped and name != "bulk":
                    continue  # splicing is for bulk
                try:
                    found[name][proxy.label].append(measure(SCENARIOS[name], proxy, options))
                except (Skip, RuntimeError) as x:
                    print(f"not measured: {name} of {proxy.label}: {x}", flush=True)
                    options.failed = options.failed or isinstance(x, RuntimeError)
        print(f"round {number + 1} of {options.rounds} done", file=sys.stderr, flush=True)
    return found


def promises(names, tidegate, found, options):
    """Rows of (what, verdict, figure)."""
    rows = []
    for name in names:
        try:
            rows += measure({**BARS, **FAILOVER}[name], tidegate, options)
        except Skip as x:
            rows.append([name, "skipped", str(x)])
        except RuntimeError as x:
            rows.append([name, "FAIL", f"not measured: {x}"])
            options.failed = True
        for peer in (p for p in found if p.shipped and name in BESIDE and (name, p.label) not in UNABLE):
            try:
                rows += [[f"{peer.label}: {what}", "(peer)", figure]
                         for what, _, figure in measure(FAILOVER[name], peer, options)]
            except (Skip, RuntimeError) as x:
                rows.append([f"{peer.label}: {name}", "(peer)", f"not measured: {x}"])
    return rows


def headline(proxies, options):
    """Date, command, versions and machine: without them figures say nothing."""
    command = shlex.join(["python3", "benches/peers/run.py", *sys.argv[1:]])
    versions = dict.fromkeys(p.version() for p in proxies)
    return (f"{time.strftime('%Y-%m-%d', time.gmtime())}, `{command}`: {', '.join(versions)}; {machine.describe(options.congestion)}, "
            f"{options.threads} proxy thread(s), {options.rounds} round(s) of {options.secs} s")


def main():
    options = arguments()
    tidegate = Tidegate(build(options))
    machine.raise_descriptor_limit()
    found, absent = peers()
    for name in absent:
        print(f"left out: {name} is not installed")
    try:
        own_network = machine.in_child(lambda: machine.enter_namespace(options.congestion))
    except Skip as x:
        sys.exit(f"run.py: {x}")
    if not own_network:
        options.congestion = None
        print("note: no network namespace of its own is allowed here; measuring on the machine's loopback device")
    title = headline([tidegate, *found], options)
    names = [w for w in options.what if w in SCENARIOS]
    figures = rounds(names, [tidegate, *found], options) if names else {}
    held = print_table(title, figures, found) if names else True
    bars = promises([w for w in options.what if w in BARS or w in FAILOVER], tidegate, found, options)
    if bars:
        held = print_bars(title, bars) and held
    if options.json:
        machine.write(options.json, json.dumps({"title": title, "figures": figures, "bars": bars}, indent=1))
    return 1 if options.failed or not (held or options.quick) else 0


if __name__ == "__main__":
    sys.exit(main())
