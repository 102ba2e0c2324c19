"""nginx, HAProxy and rproxy, one process and one thread each, set up for the same work; and their backend.

What they are told is in configs.py; the cases start and stop them through a `Yard`.
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

import certificates
import machine
from configs import BACKEND, HAPROXY, NAME, NGINX, NO_RULES, RPROXY, Rules
from figures import Trouble

TARGETS = ("nginx", "haproxy", "rproxy")
NEEDED = ("nginx", "haproxy", "wrk", "h2load", "curl", "openssl", "cc")


class Ports(NamedTuple):
    """Where a server answers; rproxy passes through and terminates on one port. `mtls` wants certificates."""

    http: int
    tls: int
    sni: int
    mtls: int


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

    def reload(self) -> None:
        """Make rproxy read its configuration again, and wait until it is in use. Raises `Trouble`."""
        before = self._log.stat().st_size
        self._process.send_signal(signal.SIGHUP)
        for _ in range(1000):
            time.sleep(0.01)
            with self._log.open("rb") as log:
                log.seek(before)
                said = log.read()
            if b"reloaded " in said:
                return
        raise Trouble(f"the new configuration was not taken: {said[-500:].decode(errors='replace')}")

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
        certificates.make(folder)
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

    def rproxy(self, name: str = "rproxy", more: str = "", rules: Rules = NO_RULES) -> Running:
        """Ours; `more` is TOML to come after the configuration that all cases have."""
        ports = free_ports()
        ports = ports._replace(sni=ports.tls)
        config = self._config(f"{name}.toml", RPROXY + more, ports, rules)
        twistd = str(Path(sys.executable).with_name("twistd"))
        command = [twistd, "-n", "--pidfile=", "rproxy", "--no-watch", "--config", str(config)]
        return Running(self.folder, name, ports, command, self._environment)

    def reload(self, running: Running, rules: Rules) -> None:
        """Give a running rproxy these rules; returns when it goes by them. Raises `Trouble`."""
        self._config(f"{running.name}.toml", RPROXY, running.ports, rules)
        running.reload()

    def _start(self, target: str) -> Running:
        if target == "rproxy":
            return self.rproxy()
        return self._haproxy() if target == "haproxy" else self._nginx("nginx", NGINX, free_ports())

    def _nginx(self, name: str, text: str, ports: Ports) -> Running:
        module = "/usr/lib/nginx/modules/ngx_stream_module.so"
        load = f"load_module {module};\n" if Path(module).exists() else ""
        config = self._config(f"{name}.conf", load + text, ports)
        answering = Ports(ports.http, ports.tls, ports.tls, ports.tls) if name == "backend" else ports
        command = ["nginx", "-p", str(self.folder), "-c", str(config)]
        return Running(self.folder, name, answering, command, self._environment)

    def _haproxy(self) -> Running:
        ports = free_ports()
        config = self._config("haproxy.cfg", HAPROXY, ports)
        command = ["haproxy", "-db", "-f", str(config)]
        return Running(self.folder, "haproxy", ports, command, self._environment)

    def _config(self, name: str, text: str, ports: Ports, rules: Rules = NO_RULES) -> Path:
        path = self.folder / name
        facts = {"d": self.folder, "name": NAME, "backend": self._ports.http, "backend_tls": self._ports.tls}
        path.write_text(text.format(**facts, **ports._asdict(), **rules._asdict()))
        return path

    def _leave_compiled_out(self) -> None:
        package = next(one for one in Path(self.build.exchange).parents if one.name == "rproxy")
        copy = self.folder / "sources"
        shutil.copytree(package, copy / "rproxy", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        earlier = os.environ.get("PYTHONPATH")
        self._environment["PYTHONPATH"] = os.pathsep.join([str(copy), *([earlier] if earlier else [])])
        self.build = machine.build(self._environment, self.folder)

    def _big_file(self) -> None:
        (self.folder / "www").mkdir()
        with (self.folder / "www" / "1g.bin").open("wb") as big:
            big.truncate(1 << 30)


def free_ports() -> Ports:
    """As many that nobody listens on; held together, so that they differ."""
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
