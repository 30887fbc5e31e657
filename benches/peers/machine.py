"""What the machine gives: namespaces, CPU clocks, memory of processes, noise of others."""
import contextlib
import ctypes
import fcntl
import json
import os
import platform
import re
import resource
import signal
import socket
import struct
import time
import traceback

CORES = sorted(os.sched_getaffinity(0))
LOAD_CORE, PROXY_CORE = CORES[0], CORES[-1]
TICKS = os.sysconf("SC_CLK_TCK")
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


class Skip(Exception):
    """Something that cannot be done here; the text says why."""


def read(path):
    with open(path) as file:
        return file.read()


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def raise_descriptor_limit():
    """Raises the limit to its hard limit (proxies and clients inherit it); returns it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def most_connections(wanted):
    """How many of `wanted` connections a proxy can hold at two descriptors each."""
    return min(wanted, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 1200) // 2)


def congestion_control():
    return read("/proc/sys/net/ipv4/tcp_congestion_control").strip()


def describe(congestion):
    return f"{len(CORES)} cores, Linux {platform.release().split('-')[0]}, TCP {congestion or congestion_control()}"


# ------------------------------------------------------------------ a network of one's own

def enter_namespace(congestion=None):
    """Moves this process to a new network namespace with only a loopback device; False where that is not allowed.

    As an ordinary user it takes a user namespace too, where the system allows those."""
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNET):
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET):
            return False
        with contextlib.suppress(OSError):
            write("/proc/self/setgroups", "deny")
        write("/proc/self/uid_map", f"0 {uid} 1")
        write("/proc/self/gid_map", f"0 {gid} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
    write("/proc/sys/net/ipv4/ip_local_port_range", "10000 65535")
    if congestion:
        try:
            write("/proc/sys/net/ipv4/tcp_congestion_control", congestion)
        except OSError:
            allowed = read("/proc/sys/net/ipv4/tcp_allowed_congestion_control").strip()
            raise Skip(f"congestion control {congestion} is not allowed here; there are {allowed} "
                       "(sysctl net.ipv4.tcp_allowed_congestion_control)") from None
    return True


def in_child(work):
    """Calls `work` in a child process and returns what it returned (JSON); its exceptions come back as RuntimeError or
    Skip. What the child entered (namespaces, cores) ends with it."""
    inlet, outlet = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = {"value": work()}
        except Skip as x:
            answer = {"skip": str(x)}
        except KeyboardInterrupt:
            answer = {"error": "interrupted"}
        except Exception as x:  # told to the parent, which decides
            answer = {"error": f"{type(x).__name__}: {x}", "trace": traceback.format_exc()}
        with os.fdopen(outlet, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
    os.close(outlet)
    with os.fdopen(inlet) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    answer = json.loads(text or '{"error": "the child process died"}')
    if "skip" in answer:
        raise Skip(answer["skip"])
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["value"]


def before_exec(cores):
    """For Popen's preexec_fn: pins the child and ends it when its parent ends."""
    def prepare():
        os.sched_setaffinity(0, cores)
        libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    return prepare


# ------------------------------------------------------------------ clocks and memory

def descendants(pid):
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                stat = read(f"/proc/{name}/stat")
                children.setdefault(int(stat[stat.rindex(")") + 2:].split()[1]), []).append(int(name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def cpu_seconds(pids):
    """CPU time of these processes, all threads, from their CPU clocks (ns), and of their reaped children."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(pid)
            stat = read(f"/proc/{pid}/stat")
            fields = stat[stat.rindex(")") + 2:].split()
            total += (int(fields[13]) + int(fields[14])) / TICKS
    return total


def machine_seconds():
    """(busy, stolen) seconds of all cores together; differences are what counts."""
    now, busy, stolen = time.monotonic(), 0.0, 0.0
    for line in re.findall(r"^cpu\d+ (.*)", read("/proc/stat"), re.M):
        v = [int(x) / TICKS for x in line.split()]
        busy += now - v[3] - v[4] - v[7]
        stolen += v[7]
    return busy, stolen


def memory(pids):
    """Resident KiB and open descriptors of these processes."""
    resident = descriptors = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            resident += int(re.search(r"^Rss:\s+(\d+)", read(f"/proc/{pid}/smaps_rollup"), re.M).group(1))
            descriptors += len(os.listdir(f"/proc/{pid}/fd"))
    return {"resident_kib": resident, "descriptors": descriptors}


def softirq_threads():
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if read(f"/proc/{name}/comm").startswith("ksoftirqd/"):
                    found.append(int(name))
    return found
