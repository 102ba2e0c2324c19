"""The examples of the library, as they stand in docs/examples: echo upstreams, and a proxy in front."""

from __future__ import annotations

import signal
import ssl
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.e2e.programs import ROOT, Program, Programs, accepts, free_port, run, until
from tests.e2e.streams import connect

EXAMPLES = ROOT / "docs" / "examples"
CERTS = EXAMPLES / "certs"


class Example:
    """tcpproxy.py in front of echo.py with three ports."""

    def __init__(self, programs: Programs) -> None:
        self.programs = programs
        self.targets, self.port = [free_port() for _ in range(3)], free_port()
        self.echo = programs.start([sys.executable, EXAMPLES / "echo.py", *self.targets], "echo")
        for target in self.targets:
            until(lambda: accepts(("127.0.0.1", target)), "an echo server")  # noqa: B023
        self.proxy = self.start()
        self.proxy.says("rproxy listens on")

    def start(self) -> Program:
        targets = [f"127.0.0.1:{target}" for target in self.targets]
        words = [sys.executable, EXAMPLES / "tcpproxy.py", f"127.0.0.1:{self.port}", *targets]
        return self.programs.start(words, "tcpproxy")

    def client(self, who: str) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(CERTS / "ca.crt"))
        context.load_cert_chain(CERTS / f"{who}.crt", CERTS / f"{who}.key")
        return context.wrap_socket(connect(self.port), server_hostname="localhost")


@pytest.fixture
def example(programs: Programs) -> Example:
    return Example(programs)


def line_of(client: ssl.SSLSocket) -> bytes:
    """What the echo server says first."""
    said = b""
    while not said.endswith(b"\n"):
        said += client.recv(100)
    return said


def test_connections_are_spread_over_the_upstreams_and_echoed(example: Example) -> None:
    """G-7, G-11."""
    clients = [example.client("jbranham") for _ in range(6)]
    served = sorted(line_of(client) for client in clients)
    assert served == sorted(b"echo at %d\n" % target for target in example.targets * 2)
    for number, client in enumerate(clients):
        client.sendall(b"%d" % number)
        assert client.recv(10) == b"%d" % number
    for client in clients:
        client.close()


def test_who_is_not_in_the_group_is_refused(example: Example) -> None:
    """G-5."""
    with pytest.raises(OSError, match=r"(?i)access.denied"):
        example.client("alice").recv(1)
    example.proxy.says("user=alice@reports")


def test_the_bucket_is_empty_after_ten(example: Example) -> None:
    """G-6: and gets a token each second."""
    for _ in range(10):
        with example.client("jbranham") as client:
            line_of(client)
    with pytest.raises(OSError, match=r"(?i)internal.error"):
        for _ in range(3):  # the machine may be so slow that there is another token
            line_of(example.client("jbranham"))


def test_a_stop_closes_it_properly(example: Example) -> None:
    """G-1: it accepts no more, and what is under way is finished."""
    with example.client("jbranham") as client:
        line_of(client)
        example.proxy.signal(signal.SIGTERM)
        until(lambda: not accepts(("127.0.0.1", example.port)), "a port that is closed")
        client.sendall(b"still here")
        assert client.recv(100) == b"still here"
    assert example.proxy.ended() == 0


def test_a_port_that_is_taken_is_a_sentence_and_status_1(example: Example) -> None:
    """G-1."""
    second = example.start()
    assert second.ended() == 1
    assert "Address already in use" in second.log


def test_the_certificates_are_what_they_should_be() -> None:
    """G-3: RSA with 2048 bits, of one authority, and not about to expire."""
    authority = x509.load_pem_x509_certificate((CERTS / "ca.crt").read_bytes())
    names = {"server": "localhost", "jbranham": "jbranham@admin", "alice": "alice@reports"}
    for file, name in names.items():
        found = x509.load_pem_x509_certificate((CERTS / f"{file}.crt").read_bytes())
        found.verify_directly_issued_by(authority)
        key = found.public_key()
        assert isinstance(key, rsa.RSAPublicKey)
        assert key.key_size == 2048
        assert found.subject.rfc4514_string() == f"CN={name}"
        assert found.not_valid_after_utc - datetime.now(UTC) > timedelta(days=365), "run make-certs.sh"


def test_the_script_makes_them_anew(tmp_path: Path) -> None:
    (tmp_path / "make-certs.sh").write_bytes((CERTS / "make-certs.sh").read_bytes())
    for words in ([], ["bob", "backup"]):
        done = run(["sh", tmp_path / "make-certs.sh", *words])
        assert done.returncode == 0, done.stderr
    made = {path.stem for path in tmp_path.glob("*.crt")}
    assert made == {"ca", "server", "jbranham", "alice", "bob"}
    bob = x509.load_pem_x509_certificate((tmp_path / "bob.crt").read_bytes())
    bob.verify_directly_issued_by(x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes()))
    assert bob.subject.rfc4514_string() == "CN=bob@backup"
    assert not list(tmp_path.glob("*.ext"))


def test_the_echo_server_waits_for_a_reader(programs: Programs) -> None:
    """It reads no more from who does not take what is sent back; so it can be used with any amount."""
    port = free_port()
    programs.start([sys.executable, EXAMPLES / "echo.py", port], "echo")
    until(lambda: accepts(("127.0.0.1", port)), "an echo server")
    with connect(port, receive_buffer=4096) as client:
        client.settimeout(0.2)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 1 << 26:
                sent += client.send(bytes(1 << 16))
        assert sent < 1 << 26, "it takes whatever it is sent"
