#!/usr/bin/env python3
"""CPU per unit of work of rproxy, nginx and HAProxy, side by side in one run. How to read it: README.md here.

The proxies take turns on the same work, round after round; what is compared is the CPU time
(user and system) that the proxy's processes used per unit, which stays put on a machine whose
speed does not. Needs nginx (with the stream module), haproxy, wrk, curl and openssl, and a
`pass.localhost` that resolves to 127.0.0.1 (wrk takes its server name from the URL).

    bench/bench.py [--cases sni_conn,sni_bulk,...] [--targets nginx,haproxy,rproxy] [--rounds 5] [--seconds 3]
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TICK = os.sysconf("SC_CLK_TCK")
NAME = "pass.localhost"
IDLE = 10_000
"""Connections held open by `sni_idle`, where the limit on file descriptors grants a proxy two for each."""

BACKEND = """
worker_processes 1; daemon off; pid {d}/backend.pid; error_log {d}/backend.err;
events {{ worker_connections 20000; }}
http {{ access_log off; sendfile on; tcp_nopush on; keepalive_timeout 600s;
  ssl_certificate {d}/cert.pem; ssl_certificate_key {d}/key.pem; ssl_protocols TLSv1.2 TLSv1.3;
  server {{ listen 127.0.0.1:{backend} ssl backlog=4096; root {d}/www;
    location = / {{ return 200 "hello\\n"; }} }} }}
"""
NGINX = """
worker_processes 1; daemon off; pid {d}/nginx.pid; error_log {d}/nginx.err;
events {{ worker_connections 20000; }}
stream {{ map $ssl_preread_server_name $peer {{ {name} 127.0.0.1:{backend}; }}
  server {{ listen 127.0.0.1:{port} backlog=4096; ssl_preread on; proxy_pass $peer; proxy_timeout 600s; }} }}
"""
HAPROXY = """
global
  nbthread 1
  maxconn 9900
  maxpipes 20
defaults
  mode tcp
  timeout connect 5s
  timeout client 600s
  timeout server 600s
frontend sni
  bind 127.0.0.1:{port} backlog 4096
  option splice-auto
  tcp-request inspect-delay 5s
  tcp-request content accept if {{ req_ssl_hello_type 1 }}
  use_backend pass if {{ req_ssl_sni -i {name} }}
backend pass
  option splice-auto
  server one 127.0.0.1:{backend}
"""
RPROXY = """
listen_tls = ["tcp:{port}:interface=127.0.0.1"]
tcp_listen_backlog = 4096
max_clients = 25000

[apps.pass]
server_name = "{name}"
passthrough = {{ upstream = [{{ location = "127.0.0.1:{backend}" }}] }}
"""


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        for children in Path(f"/proc/{found[-1]}/task").glob("*/children"):
            todo += map(int, children.read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process tree so far."""
    total = 0
    for one in tree(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def memory_kib(pid: int) -> int:
    """Proportional set size of a process tree."""
    rollups = (Path(f"/proc/{one}/smaps_rollup").read_text() for one in tree(pid))
    return sum(int(found[1]) for text in rollups if (found := re.search(r"^Pss:\s+(\d+)", text, re.M)))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Running:
    """A started server, known by the port it answers on."""

    def __init__(self, folder: Path, name: str, port: int, command: list[str]) -> None:
        self.name, self.port, self._log = name, port, folder / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        self.pid = self._process.pid
        self._wait()

    def _wait(self) -> None:
        for _ in range(150):
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.3).close()
                return
            except OSError:
                time.sleep(0.1)
        self.stop()
        sys.exit(f"{self.name} does not answer:\n{self._log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()


class Yard:
    """The scratch folder, the backend behind everybody, and a way to start each proxy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {"backend": free_port()}
        self._certificate()
        www = folder / "www"
        www.mkdir()
        with (www / "1g.bin").open("wb") as big:
            big.truncate(1 << 30)
        self.backend = self._nginx("backend", BACKEND, self.ports["backend"])

    def start(self, target: str) -> Running:
        if target == "nginx":
            return self._nginx("nginx", NGINX, free_port())
        return self._haproxy() if target == "haproxy" else self.rproxy(RPROXY)

    def rproxy(self, text: str) -> Running:
        port = free_port()
        twistd = Path(sys.executable).with_name("twistd")
        command = [str(twistd) if twistd.exists() else "twistd", "-n", "--pidfile=", "rproxy", "--no-watch"]
        config = self._config("rproxy.toml", text, port)
        return Running(self.folder, "rproxy", port, [*command, "--config", str(config)])

    def _nginx(self, name: str, text: str, port: int) -> Running:
        module = "/usr/lib/nginx/modules/ngx_stream_module.so"
        load = f"load_module {module};\n" if Path(module).exists() else ""
        config = self._config(f"{name}.conf", load + text, port)
        return Running(self.folder, name, port, ["nginx", "-p", str(self.folder), "-c", str(config)])

    def _haproxy(self) -> Running:
        port = free_port()
        config = self._config("haproxy.cfg", HAPROXY, port)
        return Running(self.folder, "haproxy", port, ["haproxy", "-db", "-f", str(config)])

    def _config(self, name: str, text: str, port: int) -> Path:
        path = self.folder / name
        path.write_text(text.format(d=self.folder, port=port, name=NAME, **self.ports))
        return path

    def _certificate(self) -> None:
        subject = ["-subj", "/CN=bench", "-addext", f"subjectAltName=DNS:{NAME},DNS:localhost"]
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]
        files = ["-keyout", "key.pem", "-out", "cert.pem"]
        command = ["openssl", "req", "-x509", *curve, *files, *subject]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def connections(target: Running, seconds: int) -> float:
    """Short TLS connections through the proxy: handshake, one request, close. The unit is a connection."""
    url = f"https://{NAME}:{target.port}/"
    report = output("wrk", "-t1", "-c16", f"-d{seconds}", "-H", "Connection: close", url)
    if trouble := re.search(r"(Non-2xx.*|Socket errors.*)", report):
        print(f"  {target.name}: {trouble[1]}")
    done = re.search(r"(\d+) requests in", report)
    if done is None:
        sys.exit(f"wrk could not run against {url}; does {NAME} resolve to 127.0.0.1?")
    return int(done[1])


def bulk(target: Running, seconds: int) -> float:
    """One download of 1 GiB through the proxy, encrypted from end to end. The unit is a GB."""
    url = f"https://{NAME}:{target.port}/1g.bin"
    resolve = f"{NAME}:{target.port}:127.0.0.1"
    size = output("curl", "-sk", "--resolve", resolve, "-o", "/dev/null", "-w", "%{size_download}", url)
    return int(size) / 1e9


def compare(case: str, yard: Yard, targets: list[str], rounds: int, seconds: int) -> None:
    """Print the median CPU per unit of each target, and the ratio of rproxy to the best of the others."""
    work, unit, scale = CASES[case]
    running = [yard.start(target) for target in targets]
    costs: dict[str, list[float]] = {target.name: [] for target in running}
    try:
        for _ in range(rounds):
            for target in running:
                before = cpu_seconds(target.pid)
                units = work(target, seconds)
                costs[target.name].append((cpu_seconds(target.pid) - before) / units * scale)
    finally:
        for target in running:
            target.stop()
    show(case, unit, {name: statistics.median(each) for name, each in costs.items()}, "rproxy")


def show(case: str, unit: str, medians: dict[str, float], ours: str) -> None:
    """One line: every figure, and ours as a multiple of the best other."""
    line = f"{case:12s} {unit:10s} " + "  ".join(f"{name} {cost:.2f}" for name, cost in medians.items())
    others = [cost for name, cost in medians.items() if name != ours]
    if ours in medians and others:
        line += f"  ratio {medians[ours] / min(others):.2f}"
    print(line, flush=True)


def names(case: str, yard: Yard, targets: list[str], rounds: int, seconds: int) -> None:
    """`sni_conn` of rproxy with 10 and with 10,000 configured names, in turns."""
    costs: dict[int, list[float]] = {10: [], 10_000: []}
    running = {count: yard.rproxy(RPROXY + many(count)) for count in costs}
    try:
        for _ in range(rounds):
            for count, target in running.items():
                before = cpu_seconds(target.pid)
                units = connections(target, seconds)
                costs[count].append((cpu_seconds(target.pid) - before) / units * 1e6)
    finally:
        for target in running.values():
            target.stop()
    medians = {f"{count} names": statistics.median(each) for count, each in costs.items()}
    show(case, "us/conn", medians, "10000 names")


def many(count: int) -> str:
    listed = ", ".join(f'"site{i}.example.org"' for i in range(count - 1))
    upstream = '{{ upstream = [{{ location = "127.0.0.1:1" }}] }}'
    return f"\n[apps.many]\nserver_name = [{listed}]\npassthrough = {upstream}\n"


def idle(case: str, yard: Yard, targets: list[str], rounds: int, seconds: int) -> None:
    """Memory per idle relayed connection: opened, handshake begun, then silence."""
    count = min(IDLE, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 300) // 2)
    print(f"  {count} idle connections")
    hello, found = client_hello(), {}
    for name in targets:
        target = yard.start(name)
        before = memory_kib(target.pid)
        held = [open_idle(target.port, hello) for _ in range(count)]
        time.sleep(2)
        found[name] = (memory_kib(target.pid) - before) / count
        for connection in held:
            connection.close()
        target.stop()
    show(case, "KiB/conn", found, "rproxy")


def client_hello() -> bytes:
    """A real ClientHello for the backend's name."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=NAME)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def open_idle(port: int, hello: bytes) -> socket.socket:
    """A connection whose ClientHello has been answered by the backend."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(hello)
    connection.recv(65536)
    return connection


Work = Callable[[Running, int], float]
CASES: dict[str, tuple[Work, str, float]] = {
    "sni_conn": (connections, "us/conn", 1e6),
    "sni_bulk": (bulk, "s/GB", 1),
}
MEASURES = {"sni_conn": compare, "sni_bulk": compare, "sni_names": names, "sni_idle": idle}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=",".join(MEASURES), help=f"of {', '.join(MEASURES)}")
    parser.add_argument("--targets", default="nginx,haproxy,rproxy")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    folder = Path(tempfile.mkdtemp(prefix="rproxy-bench"))
    folder.chmod(0o755)
    yard = Yard(folder)
    try:
        for case in options.cases.split(","):
            MEASURES[case](case, yard, options.targets.split(","), options.rounds, options.seconds)
    finally:
        yard.backend.stop()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
