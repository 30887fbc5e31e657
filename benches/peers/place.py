"""A measuring place: backends, one proxy and the load client, on the loopback device of one namespace."""
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import machine
from machine import Skip, read

HERE = os.path.dirname(os.path.abspath(__file__))
MAX_NOISE, RETRIES = 0.03, 2


def compile_load(folder):
    """Compiles backend.c and client.c into `folder` unless that was done; returns their paths."""
    os.makedirs(folder, exist_ok=True)
    built = []
    for name in ("backend", "client"):
        text = read(f"{HERE}/load.h") + read(f"{HERE}/{name}.c")
        path = f"{folder}/{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        if not os.path.exists(path):
            unfinished = f"{path}.{os.getpid()}"
            subprocess.run(["cc", "-O2", "-o", unfinished, f"{HERE}/{name}.c", "-lm"], check=True)
            os.replace(unfinished, path)
        built.append(path)
    return built


class Place:
    """Made inside the child process of one measurement; ends what it started when it is closed."""

    def __init__(self, proxy, options):
        self.proxy, self.options = proxy, options
        self.own_network = machine.enter_namespace(options.congestion)
        self.folder = tempfile.mkdtemp(prefix="tidegate-peers-")
        self.threads, self.log_level = options.threads, "warn"
        self.max_connections = machine.most_connections(10300)
        self.pinned = self.threads == 1 and len(machine.CORES) > 1
        self.load_cores = {machine.LOAD_CORE} if self.pinned else set(machine.CORES)
        self.proxy_cores = {machine.PROXY_CORE} if self.pinned else set(machine.CORES)
        os.sched_setaffinity(0, self.load_cores)
        self.listen = f"127.0.0.1:{self.port(8000)}"
        self.addresses, self.backends, self.process = [], [], None
        # Besides round robin over the addresses: a standby, more keys of tidegate's pool and backends, checks of the peers'.
        self.strategy, self.pool_keys, self.backend_keys, self.checked = "round_robin", "", [], False
        # Of tidegate alone: more keys of `log`, sections at the top.
        self.log_keys, self.head = "", ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in [self.process] + self.backends:
            if process:
                end(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def port(self, wanted):
        """`wanted` in a namespace of our own, any free one otherwise."""
        if self.own_network:
            return wanted
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            return s.getsockname()[1]

    # -------------------------------------------------------------- starting

    def start_backend(self, addresses, number=0, accepts=None):
        """One process that serves all of `addresses`; it writes down what it accepts in the file `accepts`, in order."""
        process = subprocess.Popen(
            [self.options.backend, "--listen", ",".join(addresses), "--id", str(number), "--accepts", accepts or ""],
            stdout=subprocess.PIPE, text=True, preexec_fn=machine.before_exec(self.load_cores))
        self.backends.append(process)
        if process.stdout.readline().strip() != "READY":
            raise RuntimeError("the backend did not start")

    def with_backends(self, count=4):
        """`count` addresses served by one process, the cheapest load side; then the proxy before them."""
        self.addresses = [f"127.0.0.1:{self.port(9001 + i)}" for i in range(count)]
        self.start_backend(self.addresses)
        self.start_proxy()
        return self

    def start_proxy(self):
        """Starts the proxy; returns the seconds until the first byte came through it."""
        command = self.proxy.command(self)
        with open(f"{self.folder}/proxy.log", "a") as log:
            begun = time.monotonic()
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                                            preexec_fn=machine.before_exec(self.proxy_cores))
        host, port = self.listen.rsplit(":", 1)
        while time.monotonic() < begun + 20 and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1) as s:
                s.settimeout(2)
                s.sendall(b"S" + bytes(63))
                if s.recv(64):
                    return time.monotonic() - begun
            time.sleep(0.002)
        raise Skip(f"{self.proxy.label} did not start: {read(f'{self.folder}/proxy.log')[-600:].strip()}")

    def pids(self):
        return machine.descendants(self.process.pid)

    def client(self, *words, **more):
        command = [self.options.client, *(str(w) for w in words), "--target", self.listen]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                                preexec_fn=machine.before_exec(self.load_cores), **more)

    # -------------------------------------------------------------- measuring

    def load(self, *words):
        """Runs the client, and again while something else was using the machine; the quietest window is returned."""
        best = None
        for _ in range(1 + RETRIES):
            result = self.load_once(*words)
            if best is None or result["noise"] < best["noise"]:
                best = result
            if best["noise"] <= MAX_NOISE or self.options.quick:
                break
        return best

    def load_once(self, *words):
        """Runs the client once. Its JSON, plus `cpu_s` (CPU time of the proxy within the window) and `noise` (the share
        of the machine that others took meanwhile: the host, and processes that are not ours)."""
        return self.watch(self.client(*words))

    def watch(self, client):
        """Waits for a client; see `load_once`."""
        marks, last = [], ""
        watchdog = threading.Timer(150, client.kill)
        watchdog.start()
        for line in client.stdout:
            if line.strip() in ("BEGIN", "END"):
                marks.append(self.mark(client))
            else:
                last = line
        watchdog.cancel()
        if client.wait() or not last.startswith("{") or len(marks) != 2:
            raise RuntimeError(f"the client failed ({client.returncode}): {last.strip()}")
        wall, cpu, own, busy, stolen = (b - a for a, b in zip(*marks))
        noise = (max(busy - cpu - own, 0) + stolen) / wall / len(machine.CORES)
        return {**json.loads(last), "cpu_s": cpu, "noise": noise}

    def mark(self, client):
        """Clocks now: time, CPU of the proxy, of the load side, of the machine, stolen."""
        ours = [os.getpid(), client.pid, *(b.pid for b in self.backends), *machine.softirq_threads()]
        return (time.monotonic(), machine.cpu_seconds(self.pids()), machine.cpu_seconds(ours),
                *machine.machine_seconds())


def end(process):
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2)
    if process.stdout:
        process.stdout.close()
