"""nginx, HAProxy and rproxy, one process and one thread each, set up for the same work; and their backend.

All three pass a name through by its ClientHello, serve a site in clear text and behind TLS, keep
connections to the backend and add X-Forwarded-For and -Proto. Limits that would make one of them
open connections anew, close idle ones or spill to a disk are out of the way for all.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import machine

NAME = "pass.localhost"
"""Passed through; `localhost` is the site that the proxies serve themselves."""

BACKEND = """
worker_processes 1; daemon off; pid {d}/backend.pid; error_log {d}/backend.err;
events {{ worker_connections 20000; }}
http {{ access_log off; sendfile on; tcp_nopush on; keepalive_timeout 600s; keepalive_requests 1000000000;
  ssl_certificate {d}/cert.pem; ssl_certificate_key {d}/key.pem; ssl_protocols TLSv1.2 TLSv1.3;
  server {{ listen 127.0.0.1:{http} backlog=4096; listen 127.0.0.1:{tls} ssl backlog=4096; root {d}/www;
    location / {{ return 200 "hello\\n"; }}  location = /1g.bin {{ }} }} }}
"""
NGINX = """
worker_processes 1; daemon off; pid {d}/nginx.pid; error_log {d}/nginx.err;
events {{ worker_connections 20000; }}
http {{ access_log off; keepalive_timeout 600s; keepalive_requests 1000000000;
  ssl_certificate {d}/cert.pem; ssl_certificate_key {d}/key.pem; ssl_protocols TLSv1.2 TLSv1.3;
  upstream site {{ server 127.0.0.1:{backend}; keepalive 256; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{http} backlog=4096; listen 127.0.0.1:{tls} ssl http2 backlog=4096;
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
    proxy_max_temp_file_size 0; location / {{ proxy_pass http://site; }} }} }}
stream {{ map $ssl_preread_server_name $peer {{ {name} 127.0.0.1:{backend_tls}; }}
  server {{ listen 127.0.0.1:{sni} backlog=4096; ssl_preread on; proxy_pass $peer; proxy_timeout 600s; }} }}
"""
HAPROXY = """
global
  nbthread 1
  maxconn 9900
  maxpipes 20
defaults
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  option splice-auto
frontend web
  mode http
  bind 127.0.0.1:{http} backlog 4096
  bind 127.0.0.1:{tls} backlog 4096 ssl crt {d}/both.pem alpn h2,http/1.1
  option forwardfor
  http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
  default_backend site
backend site
  mode http
  http-reuse always
  server one 127.0.0.1:{backend}
frontend sni
  mode tcp
  bind 127.0.0.1:{sni} backlog 4096
  tcp-request inspect-delay 5s
  tcp-request content accept if {{ req_ssl_hello_type 1 }}
  use_backend pass if {{ req_ssl_sni -i {name} }}
backend pass
  mode tcp
  server one 127.0.0.1:{backend_tls}
"""
RPROXY = """
listen = ["tcp:{http}:interface=127.0.0.1"]
listen_tls = ["tcp:{tls}:interface=127.0.0.1"]
tcp_listen_backlog = 4096
max_clients = 25000
keepalive_timeout = "10m"

[apps.site]
server_name = "localhost"
tls = {{ tls_cert_path = "cert.pem", tls_cert_key_path = "key.pem", https_redirection = false }}
reverse_proxy = [{{ upstream = [{{ location = "127.0.0.1:{backend}" }}] }}]

[apps.pass]
server_name = "{name}"
passthrough = {{ upstream = [{{ location = "127.0.0.1:{backend_tls}" }}] }}
"""
TARGETS = ("nginx", "haproxy", "rproxy")
NEEDED = ("nginx", "haproxy", "wrk", "h2load", "curl", "openssl")


class Ports(NamedTuple):
    """Where a server answers; rproxy passes through and terminates on one port."""

    http: int
    tls: int
    sni: int


class Running:
    """A started server."""

    def __init__(
        self, folder: Path, name: str, ports: Ports, command: list[str], environment: dict[str, str]
    ) -> None:
        self.name, self.ports, self._log = name, ports, folder / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        self.pid = self._process.pid
        for port in set(ports):
            self._wait(port)

    def _wait(self, port: int) -> None:
        for _ in range(150):
            try:
                socket.create_connection(("127.0.0.1", port), 0.3).close()
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
    """The scratch folder, the backend behind everybody, and a way to start each proxy.

    With `pure` rproxy runs from a copy of its sources, where no compiled module hides them.
    """

    def __init__(self, folder: Path, *, pure: bool) -> None:
        self.folder, self._environment = folder, dict(os.environ)
        self.build = machine.build(self._environment, folder)
        if pure:
            self._leave_compiled_out()
        self._certificate()
        self._big_file()
        self._ports = free_ports()
        self.backend = self._nginx("backend", BACKEND, self._ports)

    @contextmanager
    def started(self, *targets: str) -> Iterator[list[Running]]:
        """The proxies, running until the end of the block."""
        with ExitStack() as stack:
            running = []
            for target in targets:
                running.append(self._start(target))
                stack.callback(running[-1].stop)
            yield running

    def rproxy(self, name: str = "rproxy", more: str = "") -> Running:
        """Ours; `more` is TOML to come after the configuration that all cases have."""
        http, tls, _ = free_ports()
        ports = Ports(http, tls, tls)
        config = self._config(f"{name}.toml", RPROXY + more, ports)
        twistd = str(Path(sys.executable).with_name("twistd"))
        command = [twistd, "-n", "--pidfile=", "rproxy", "--no-watch", "--config", str(config)]
        return Running(self.folder, name, ports, command, self._environment)

    def _start(self, target: str) -> Running:
        if target == "rproxy":
            return self.rproxy()
        return self._haproxy() if target == "haproxy" else self._nginx("nginx", NGINX, free_ports())

    def _nginx(self, name: str, text: str, ports: Ports) -> Running:
        module = "/usr/lib/nginx/modules/ngx_stream_module.so"
        load = f"load_module {module};\n" if Path(module).exists() else ""
        config = self._config(f"{name}.conf", load + text, ports)
        answering = Ports(ports.http, ports.tls, ports.tls) if name == "backend" else ports
        command = ["nginx", "-p", str(self.folder), "-c", str(config)]
        return Running(self.folder, name, answering, command, self._environment)

    def _haproxy(self) -> Running:
        ports = free_ports()
        config = self._config("haproxy.cfg", HAPROXY, ports)
        command = ["haproxy", "-db", "-f", str(config)]
        return Running(self.folder, "haproxy", ports, command, self._environment)

    def _config(self, name: str, text: str, ports: Ports) -> Path:
        path = self.folder / name
        backend = {"backend": self._ports.http, "backend_tls": self._ports.tls}
        path.write_text(text.format(d=self.folder, name=NAME, **backend, **ports._asdict()))
        return path

    def _leave_compiled_out(self) -> None:
        package = next(one for one in Path(self.build.exchange).parents if one.name == "rproxy")
        copy = self.folder / "sources"
        shutil.copytree(package, copy / "rproxy", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        earlier = os.environ.get("PYTHONPATH")
        self._environment["PYTHONPATH"] = os.pathsep.join([str(copy), *([earlier] if earlier else [])])
        self.build = machine.build(self._environment, self.folder)

    def _certificate(self) -> None:
        subject = ["-subj", "/CN=bench", "-addext", f"subjectAltName=DNS:{NAME},DNS:localhost"]
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]
        files = ["-keyout", "key.pem", "-out", "cert.pem"]
        command = ["openssl", "req", "-x509", *curve, *files, *subject]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)
        parts = [(self.folder / name).read_bytes() for name in ("key.pem", "cert.pem")]
        (self.folder / "both.pem").write_bytes(b"".join(parts))

    def _big_file(self) -> None:
        (self.folder / "www").mkdir()
        with (self.folder / "www" / "1g.bin").open("wb") as big:
            big.truncate(1 << 30)


def free_ports() -> Ports:
    """Three that nobody listens on; held together, so that they differ."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in Ports._fields]
        return Ports(*(probe.getsockname()[1] for probe in probes))


def require_programs() -> None:
    """Exit with what is missing."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if not Path(sys.executable).with_name("twistd").exists():
        missing.append(f"twistd beside {sys.executable}")
    if missing:
        sys.exit(f"needed and not found: {', '.join(missing)}")
    if not re.match(r"127\.", _address(NAME)):
        sys.exit(f"wrk needs {NAME} to resolve: add `127.0.0.1 {NAME}` to /etc/hosts")


def _address(name: str) -> str:
    try:
        return socket.gethostbyname(name)
    except OSError:
        return ""
