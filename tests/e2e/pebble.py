"""pebble, Let's Encrypt's authority for tests, validating for real; and a DNS that knows one machine only."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
import urllib.request
from functools import cache
from typing import Any

from tests.e2e.peers import self_signed
from tests.e2e.programs import PATIENCE, Program, Programs, free_port, until
from tests.e2e.streams import all_of

NO_SLEEP = {"PEBBLE_VA_ALWAYS_VALID": "0", "PEBBLE_VA_NOSLEEP": "1", "GOMAXPROCS": "1"}
"""Validate, without pebble's usual pause of up to 15 seconds."""


@cache
def dns() -> int:
    """The UDP port of a server for which every name has the address 127.0.0.1 and nothing else."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listening.bind(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            query, client = listening.recvfrom(4096)
            listening.sendto(answer(query), client)

    threading.Thread(target=serve, daemon=True).start()
    port: int = listening.getsockname()[1]
    return port


def answer(query: bytes) -> bytes:
    """RFC 1035 §4.1; other types than A exist, and have no records."""
    end = query.index(b"\0", 12) + 5  # the name is not compressed in a question
    is_address = query[end - 4 : end - 2] == b"\0\1"
    head = query[:2] + b"\x84\0" + b"\0\1" + (b"\0\1" if is_address else b"\0\0") + b"\0\0\0\0"
    record = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x7f\0\0\1" if is_address else b""
    return head + query[12:end] + record


class Pebble:
    """A running pebble; its state is gone when it ends."""

    def __init__(self, programs: Programs, program: str, tls_port: int, **settings: Any) -> None:
        self._programs, self._program = programs, program
        self.folder = programs.folder / f"pebble-{tls_port}"
        self.api = self_signed(self.folder, "localhost", "127.0.0.1")
        self.port, self._management = free_port(), free_port()
        self.environment = dict(settings.pop("environment", {}))
        self._settings = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self._management}",
            "certificate": str(self.api.certificate),
            "privateKey": str(self.api.key),
            "httpPort": free_port(),
            "tlsPort": tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": False,
        } | settings
        self.running: Program | None = None

    def start(self) -> Pebble:
        """Start it (again), without anything that it knew before."""
        file = self.folder / "pebble.json"
        file.write_text(json.dumps({"pebble": self._settings}))
        words = [self._program, "-config", file, "-strict", "-dnsserver", f"127.0.0.1:{dns()}"]
        environment = {**os.environ, **NO_SLEEP, **self.environment}
        self.running = self._programs.start(words, self.folder.name, env=environment)
        until(lambda: self._is_up(), f"pebble is not up: {self.running.log}")
        return self

    def stop(self) -> None:
        assert self.running is not None
        self.running.end()

    @property
    def log(self) -> str:
        assert self.running is not None
        return self.running.log

    @property
    def directory(self) -> str:
        return f"https://localhost:{self.port}/dir"

    def table(self, **more: Any) -> str:
        """The `[acme]` table for this authority."""
        facts = {
            "email": "admin@example.org",
            "dir_url": self.directory,
            "ca_file": str(self.api.certificate),
        }
        return "[acme]\n" + "".join(
            f"{key} = {json.dumps(value)}\n" for key, value in {**facts, **more}.items()
        )

    def root(self) -> ssl.SSLContext:
        """A client that trusts what this pebble signs, as long as it runs."""
        context = ssl.create_default_context(cadata=self._get(self._management, "/roots/0").decode())
        context.set_alpn_protocols(["http/1.1"])
        return context

    def _is_up(self) -> bool:
        assert self.running is not None
        assert self.running.popen.poll() is None, self.running.log
        try:
            return bool(self._get(self.port, "/dir") and self._get(self._management, "/roots/0"))
        except OSError:
            return False

    def _get(self, port: int, path: str) -> bytes:
        context = ssl.create_default_context(cafile=str(self.api.certificate))
        request = urllib.request.Request(f"https://localhost:{port}{path}", headers={"User-Agent": "test"})
        with urllib.request.urlopen(request, timeout=5, context=context) as response:
            found: bytes = response.read()
            return found


def app(key: str, *names: str, more: str = "tls = { acme = true }") -> str:
    """An app in front of the demo backend."""
    listed = json.dumps(names or (f"{key}.example",))
    return f'[apps.{key}]\nserver_name = {listed}\n{more}\nreverse_proxy = {{ location = "demo:" }}\n'


def get(port: int, name: str, context: ssl.SSLContext) -> tuple[dict[str, Any], bytes]:
    """The certificate that a client is shown who verifies it, and the response to a request."""
    with (
        socket.create_connection(("127.0.0.1", port), PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=name) as stream,
    ):
        stream.sendall(b"GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % name.encode())
        shown: Any = stream.getpeercert()
        return shown, all_of(stream)


def is_served(port: int, name: str, context: ssl.SSLContext) -> bool:
    """Whether a client who verifies certificates gets a response for this name."""
    try:
        return get(port, name, context)[1].startswith(b"HTTP/1.1 ")
    except OSError:
        return False


def await_served(proxy: Program, port: int, name: str, context: ssl.SSLContext, seconds: float = 20) -> None:
    """Fails with the proxy's log when there is no certificate in time."""
    try:
        until(lambda: is_served(port, name, context), f"a certificate for {name}", seconds)
    except AssertionError as problem:
        raise AssertionError(f"{problem}; the log ends in:\n{proxy.log[-3000:]}") from None
