"""The proxies: equivalent configurations, and how each is started."""
import os
import re
import shutil
import subprocess

from machine import write


class Tidegate:
    label, shipped = "tidegate", True

    def __init__(self, binary):
        self.binary = binary

    def version(self):
        return subprocess.run([self.binary, "--version"], capture_output=True, text=True).stdout.strip()

    def command(self, place):
        path = os.path.join(place.folder, "tidegate.yaml")
        keys = [f", {k}" if k else "" for k in place.backend_keys] + [""] * len(place.addresses)
        backends = "\n".join(f'      - {{ name: b{i}, address: "{a}"{keys[i]} }}' for i, a in enumerate(place.addresses))
        write(path, f"""\
runtime: {{ threads: {place.threads} }}
log: {{ level: {place.log_level}{place.log_keys} }}
{place.head}
listeners:
  main: {{ bind: "{place.listen}", pool: main }}
pools:
  main:
    strategy: {place.strategy}
    {place.pool_keys}
    backends:
{backends}
""")
        return [self.binary, "run", "-c", path]


class HAProxy:
    label, shipped = "HAProxy", True

    def __init__(self, binary, splice=False):
        self.binary, self.splice = binary, splice
        if splice:
            self.label, self.shipped = "HAProxy, forced splice", False

    def version(self):
        text = subprocess.run([self.binary, "-v"], capture_output=True, text=True).stdout
        return "HAProxy " + re.search(r"version (\d+(?:\.\d+)*)", text).group(1)

    def command(self, place):
        path = os.path.join(place.folder, "haproxy.cfg")
        splice = "option splice-request\n  option splice-response" if self.splice else ""
        is_standby = place.strategy == "hot_standby"
        # What evicts the active one on refused connections there: its own passive detection.
        watch = " check inter 2s fall 3 observe layer4 error-limit 3 on-error mark-down" if is_standby else ""
        watch = " check inter 2s" if place.checked else watch
        servers = "\n".join(f"  server b{i} {a}{watch}{' backup' if is_standby and i else ''}"
                            for i, a in enumerate(place.addresses))
        write(path, f"""\
global
  nbthread {place.threads}
  maxconn {place.max_connections}
  no strict-limits
defaults
  mode tcp
  timeout connect 1s
  timeout client 1h
  timeout server 1h
  retries 3
  option redispatch 1
  option tcp-smart-accept
  option tcp-smart-connect
  {splice}
  balance roundrobin
frontend main
  bind {place.listen} backlog 4096
  maxconn {place.max_connections}
  default_backend main
backend main
{servers}
""")
        return [self.binary, "-db", "-q", "-f", path]


class Nginx:
    label, shipped = "nginx stream", True
    module = "/usr/lib/nginx/modules/ngx_stream_module.so"

    def __init__(self, binary):
        self.binary = binary

    def version(self):
        text = subprocess.run([self.binary, "-v"], capture_output=True, text=True).stderr
        return "nginx " + re.search(r"nginx/(\d+(?:\.\d+)*)", text).group(1)

    def command(self, place):
        path = os.path.join(place.folder, "nginx.conf")
        load = f"load_module {self.module};" if os.path.exists(self.module) else ""
        user = "user root;" if os.getuid() == 0 else ""  # the only user there is in a user namespace
        is_standby = place.strategy == "hot_standby"
        fails = "max_fails=3 fail_timeout=10s" if is_standby else "max_fails=0"
        servers = "\n".join(f"    server {a} {fails}{' backup' if is_standby and i else ''};"
                            for i, a in enumerate(place.addresses))
        write(path, f"""\
{load}
{user}
worker_processes {place.threads};
daemon off;
pid {place.folder}/nginx.pid;
error_log {place.folder}/nginx.err crit;
worker_rlimit_nofile {place.max_connections * 2 + 90};
events {{
  use epoll;
  worker_connections {place.max_connections * 2};
  accept_mutex off;
}}
stream {{
  upstream main {{
{servers}
  }}
  server {{
    listen {place.listen} reuseport backlog=4096;
    proxy_pass main;
    proxy_connect_timeout 1s;
    proxy_timeout 1h;
    proxy_next_upstream on;
    proxy_next_upstream_tries 3;
  }}
}}
""")
        return [self.binary, "-e", f"{place.folder}/nginx.err", "-p", place.folder, "-c", path]


def peers():
    """(those that are installed, the names of those that are not)"""
    found, absent = [], []
    haproxy, nginx = find("haproxy"), find("nginx")
    if haproxy:
        found += [HAProxy(haproxy), HAProxy(haproxy, splice=True)]
    else:
        absent.append("HAProxy (package haproxy)")
    if nginx and has_stream(nginx):
        found.append(Nginx(nginx))
    else:
        absent.append("nginx stream (packages nginx and libnginx-mod-stream)")
    return found, absent


def find(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def has_stream(nginx):
    text = subprocess.run([nginx, "-V"], capture_output=True, text=True).stderr
    return os.path.exists(Nginx.module) or "--with-stream " in text + " "
