"""Reloads under load, of tidegate alone: like bars.py, each takes a Place and returns [(what, PASS or FAIL, the figure)]."""
import asyncio
import hashlib
import json
import multiprocessing
import os
import random
import socket
import threading
import time
import urllib.request

from bars import MANY, disturbed, verdict
from machine import write
from place import MAX_NOISE

STREAMS, BLOCK, PAUSE = 200, 4096, 0.1
SHORT_RATE, RELOADS, SECS = 2000, 20, 60
PING_RATE = 1000
FORK = multiprocessing.get_context("fork")


class Written:
    """tidegate with whatever configuration `text` says; `again` puts another one in force, and says how long that took."""

    label, shipped = "tidegate", True

    def __init__(self, place, text):
        self.binary, self.place = place.proxy.binary, place
        self.admin = f"127.0.0.1:{place.port(9900)}"
        self.write(text)

    def write(self, text):
        head = (f"runtime: {{ threads: {self.place.threads} }}\nlog: {{ level: {self.place.log_level} }}\n"
                f"admin: {{ bind: \"{self.admin}\" }}\n")
        write(self.path() + ".new", head + text)
        os.replace(self.path() + ".new", self.path())

    def path(self):
        return os.path.join(self.place.folder, "tidegate.yaml")

    def command(self, place):
        return [self.binary, "run", "-c", self.path()]

    def again(self, text):
        self.write(text)
        begun = time.monotonic()
        request = urllib.request.Request(f"http://{self.admin}/api/v1/reload", data=b"{}", method="POST",
                                         headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            changed = json.load(answer)["changed"]
        if not any(changed["backends"].values()):
            raise RuntimeError(f"a reload that was to change backends has changed nothing: {changed}")
        return time.monotonic() - begun


def reload(place):
    """20 reloads of everything that may change, in a minute."""
    secs, reloads = (9, 3) if place.options.quick else (SECS, RELOADS)
    place.addresses = [f"127.0.0.1:{place.port(9001 + i)}" for i in range(4)]
    place.start_backend(place.addresses)
    echo, echo_address = start_echo(place)
    streams_at, extra_at = f"127.0.0.1:{place.port(8001)}", f"127.0.0.1:{place.port(8002)}"
    text = lambda number: various(place, number, echo_address, streams_at, extra_at)
    place.proxy = Written(place, text(0))
    place.start_proxy()
    took = []

    def reload_all():
        for number in range(1, reloads + 1):
            time.sleep(secs / (reloads + 1))
            took.append(place.proxy.again(text(number)))

    stop, results = FORK.Event(), FORK.Queue()
    streams = FORK.Process(target=run_streams, args=(streams_at, stop, results))
    streams.start()
    client = place.client("short", "--rate", SHORT_RATE, "--secs", secs, "--warm", 0.5, "--timeout-ms", 10000)
    reloading = threading.Thread(target=reload_all)
    reloading.start()
    result = place.watch(client)
    reloading.join()
    stop.set()
    intact, carried, problems = results.get(timeout=60)
    streams.join()
    echo.terminate()
    for problem in problems[:3]:
        print(f"  a stream: {problem}")
    for error in result["first_errors"][:3]:
        print(f"  a short connection: {error}")
    if len(took) < reloads:
        return [verdict(f"{reloads} reloads in {secs} s", False, f"only {len(took)} were done")]
    return [
        verdict(f"{reloads} reloads in {secs} s under {SHORT_RATE} short connections a second: 0 refused, reset or cut",
                not result["errors"] and result["ok"] > 0.95 * SHORT_RATE * secs,
                f"{result['errors']} failed of {result['ok'] + result['errors']}, p99 {result['p99_us'] / 1e3:.1f} ms, "
                f"slowest {result['max_us'] / 1e3:.1f} ms{disturbed(result)}"),
        verdict(f"and {STREAMS} hash-checked streams: 0 cut", intact == STREAMS,
                f"{intact} of {STREAMS} intact, {carried / 1e6:.0f} MB there and back"),
        verdict("and each reload <= 1 s", max(took) <= 1,
                f"slowest {max(took) * 1e3:.0f} ms, median {sorted(took)[len(took) // 2] * 1e3:.0f} ms"),
    ]


def reload_many(place):
    """10,000 backends: how long a reload takes, and what a connection notices of it."""
    secs = 3 if place.options.quick else 12
    place.start_backend(["0.0.0.0:9000"])
    numbers = list(range(MANY))
    text = lambda number: fleet(place, numbers[number % 2 * 100:], 1 + number % 3)
    place.proxy = Written(place, text(0))
    place.start_proxy()
    ping = lambda: place.load("message", "--conns", 1, "--rate", PING_RATE, "--secs", secs, "--warm", 0.5)
    quiet = ping()
    took, over = [], threading.Event()

    def reload_all():
        while not over.is_set():
            took.append(place.proxy.again(text(len(took) + 1)))
            over.wait(0.2)

    reloading = threading.Thread(target=reload_all)
    reloading.start()
    busy = ping()
    over.set()
    reloading.join()
    if not took or busy["errors"] or quiet["errors"]:
        raise RuntimeError(f"{len(took)} reloads, {busy['errors']} and {quiet['errors']} errors")
    times = sorted(took)
    noise = max(quiet["noise"], busy["noise"])
    what = "and a ping-pong connection's p99 within 20 % of what it is without"
    figure = (f"p99 {quiet['p99_us']:.0f} us without, {busy['p99_us']:.0f} us with a reload every "
              f"{times[len(times) // 2] * 1e3 + 200:.0f} ms; slowest {quiet['max_us'] / 1e3:.1f} and "
              f"{busy['max_us'] / 1e3:.1f} ms")
    # Waits that others cause would hide those that a reload causes.
    is_judged = noise <= MAX_NOISE or place.options.quick
    latency = verdict(what, busy["p99_us"] <= 1.2 * quiet["p99_us"], figure)
    return [
        verdict(f"{MANY} backends: a reload that changes all < 1 s", times[-1] < 1,
                f"{len(took)} reloads, median {times[len(times) // 2] * 1e3:.0f} ms, slowest {times[-1] * 1e3:.0f} ms"
                f"{disturbed(busy)}"),
        latency if is_judged else [what, "skipped", f"{figure}: not judged, others took {noise * 100:.0f} % of the machine"],
    ]


RELOAD = {"reload": reload, "reload-many": reload_many}


# ------------------------------------------------------------------ parts

def various(place, number, echo, streams_at, extra_at):
    """A configuration in which with `number` change: members, weights, the strategy, checks, limits, timeouts, and whether
    a listener is there."""
    listed = [a for i, a in enumerate(place.addresses) if i != number % 4]
    backends = "".join(f'      - {{ address: "{a}", weight: {1 + (number + i) % 3} }}\n' for i, a in enumerate(listed))
    strategy = ["round_robin", "least_connections", "random", "source_hash"][number // 2 % 4]
    check = "health_check: { interval: 1s }" if number % 3 == 1 else ""
    extra = f'  extra: {{ bind: "{extra_at}", pool: streams }}\n' if number % 2 else ""
    return f"""\
listeners:
  main: {{ bind: "{place.listen}", pool: main, timeouts: {{ idle: {60 + number}s }}, max_connections: {5000 + number} }}
  streams: {{ bind: "{streams_at}", pool: streams, timeouts: {{ idle: {60 + number}s }} }}
{extra}pools:
  main:
    strategy: {strategy}
    {check}
    backends:
{backends}  streams:
    connect: {{ timeout: {1 + number % 2}s }}
    backends: [{{ address: "{echo}", weight: {1 + number % 5} }}]
"""


def fleet(place, numbers, weight):
    address = lambda i: f"127.{1 + i // 62500}.{i // 250 % 250}.{1 + i % 250}:9000"
    backends = "".join(f'      - {{ name: b{i}, address: "{address(i)}", weight: {weight} }}\n' for i in numbers)
    return f'listeners:\n  main: {{ bind: "{place.listen}", pool: main }}\npools:\n  main:\n    backends:\n{backends}'


def start_echo(place):
    """A process that sends back what comes, and where."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", place.port(9101)))
    listener.listen(1024)
    listener.setblocking(False)

    async def answer(reader, writer):
        while block := await reader.read(1 << 16):
            writer.write(block)
            await writer.drain()
        writer.close()

    async def serve():
        server = await asyncio.start_server(answer, sock=listener)
        await server.serve_forever()

    process = FORK.Process(target=lambda: asyncio.run(serve()), daemon=True)
    process.start()
    host, port = listener.getsockname()
    listener.close()
    return process, f"{host}:{port}"


def run_streams(address, stop, results):
    """Streams of random bytes until `stop`; the number of those that came back as they went, the bytes, the problems."""
    host, port = address.rsplit(":", 1)
    problems, carried = [], 0

    async def stream(number):
        nonlocal carried
        there, back, bits = hashlib.sha256(), hashlib.sha256(), random.Random(number)
        reader, writer = await asyncio.open_connection(host, int(port))

        async def receive():
            nonlocal carried
            while block := await reader.read(1 << 16):
                back.update(block)
                carried += len(block)

        receiving = asyncio.create_task(receive())
        await asyncio.sleep(bits.random() * PAUSE)
        while not stop.is_set():
            block = bits.randbytes(BLOCK)
            there.update(block)
            writer.write(block)
            await writer.drain()
            await asyncio.sleep(PAUSE)
        writer.write_eof()
        await receiving
        writer.close()
        if there.digest() != back.digest():
            raise ValueError("other bytes came back than went")

    async def noted(number):
        try:
            await stream(number)
        except (OSError, ValueError) as x:
            problems.append(repr(x))

    async def run():
        await asyncio.gather(*(noted(number) for number in range(STREAMS)))

    asyncio.run(run())
    results.put((STREAMS - len(problems), carried, problems))
