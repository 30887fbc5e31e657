#!/usr/bin/env python3
"""serve.py BINARY FILE: starts the binary on a configuration as a user would, with toy backends on the addresses that the
file names, sends bytes through every listener, and stops it."""
import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

BINARY, FILE = sys.argv[1:3]
PATIENCE = 20


def backend(address):
    """Echoes what it gets, on a thread of its own."""
    def serve():
        while True:
            peer, _ = listener.accept()
            threading.Thread(target=echo, args=(peer,), daemon=True).start()

    def echo(peer):
        # A check ends with a reset.
        with peer, contextlib.suppress(ConnectionResetError):
            while data := peer.recv(65536):
                peer.sendall(data)

    listener = socket.create_server(split(address), reuse_port=False)
    threading.Thread(target=serve, daemon=True).start()


def split(address):
    host, port = address.rsplit(":", 1)
    return host.strip("[]"), int(port)


def listening(process, count):
    """The addresses that it says it listens on."""
    found, watchdog = [], threading.Timer(PATIENCE, process.kill)
    watchdog.start()
    for line in process.stderr:
        print(f"  {line.rstrip()}")
        plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
        if "listening" in plain and (match := re.search(r'address"?[=:] ?"?([^" ]+)', plain)):
            found.append(match[1])
        if len(found) == count:
            break
    watchdog.cancel()
    threading.Thread(target=lambda: [print(f"  {line.rstrip()}") for line in process.stderr], daemon=True).start()
    return found


def round_trip(address):
    host, port = split(address)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    sent = bytes(range(256)) * 4096
    with socket.create_connection((host, port), PATIENCE) as s:
        s.settimeout(PATIENCE)
        threading.Thread(target=lambda: (s.sendall(sent), s.shutdown(socket.SHUT_WR)), daemon=True).start()
        got = bytearray()
        while data := s.recv(65536):
            got += data
    assert got == sent, f"{address}: {len(got)} bytes came back, {len(sent)} were sent"


def main():
    subprocess.run([BINARY, "check", "-c", FILE], check=True)
    text = "\n".join(line.split("#")[0] for line in open(FILE))
    listeners, pools = text.split("\npools:", 1)
    addresses = re.findall(r"(?<![\w.])(?:\d+(?:\.\d+){3}|\[[0-9a-f:]+\]):\d+", pools)
    for address in dict.fromkeys(addresses):
        backend(address)
    binds = len(re.findall(r"\bbind:", listeners))
    process = subprocess.Popen([BINARY, "run", "-c", FILE], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        found = listening(process, binds)
        assert len(found) == binds, f"{binds} listeners are configured, {found} listen"
        for address in found:
            for _ in range(2 * len(addresses)):
                round_trip(address)
            print(f"{address}: {2 * len(addresses)} round trips of 1 MiB over {len(addresses)} backends")
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, f"exit code {process.returncode} on SIGTERM"
        print(f"stopped with exit code 0 after {time.monotonic() - begun:.2f} s")
    finally:
        process.kill()


main()
