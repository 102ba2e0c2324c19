"""Clients with certificates, good and bad, and a proxy with a service for them."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.e2e.programs import Programs, Proxy, free_port, run, until
from tests.e2e.streams import CHUNK, Backend, connect, send_pattern
from tests.tlspeers import PEM, Made, days, make

AUTHORITY = make(ca=True, number=1)
STRANGER = make(ca=True, number=2)


class Identities:
    """Certificates in a folder; `tls` is what a service says about them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "ca.pem").write_bytes(AUTHORITY.pem)
        make("localhost", "a.test", "b.test", "127.0.0.1", issuer=AUTHORITY, number=3).write(folder, "server")
        self.client("bob", "bob@admin")
        self.client("eve", "eve@staff")
        self.client("stranger", "bob@admin", issuer=STRANGER)
        self.client("expired", "bob@admin", begins=days(-9), ends=days(-1))
        self.revoke(self.client("revoked", "mallory@admin"))

    @property
    def files(self) -> str:
        return f'tls_cert_path = "{self.folder}/server.pem", tls_cert_key_path = "{self.folder}/server.key"'

    @property
    def tls(self) -> str:
        authority = f'client_ca_cert_path = "{self.folder}/ca.pem"'
        return f'tls = {{ {self.files}, {authority}, client_crl_path = "{self.folder}/list.pem" }}\n'

    def client(self, file: str, name: str, **more: Any) -> Made:
        made = make(name, issuer=more.pop("issuer", AUTHORITY), number=4, **more)
        made.write(self.folder, file)
        return made

    def revoke(self, *made: Made) -> None:
        builder = x509.CertificateRevocationListBuilder().issuer_name(AUTHORITY.certificate.subject)
        builder = builder.last_update(days(-1)).next_update(days(1))
        for each in made:
            gone = x509.RevokedCertificateBuilder().serial_number(each.certificate.serial_number)
            builder = builder.add_revoked_certificate(gone.revocation_date(days(-1)).build())
        (self.folder / "list.pem").write_bytes(builder.sign(AUTHORITY.key, hashes.SHA256()).public_bytes(PEM))

    def context(self, file: str | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        if file is not None:
            context.load_cert_chain(self.folder / f"{file}.pem", self.folder / f"{file}.key")
        return context

    def connect(self, port: int, file: str | None = "bob", name: str = "localhost") -> ssl.SSLSocket:
        """A client that has shown this certificate."""
        return self.context(file).wrap_socket(connect(port), server_hostname=name)

    def s_client(self, port: int, file: str | None, *options: str) -> subprocess.CompletedProcess[str]:
        """`openssl s_client` with this certificate, until the other side closes."""
        words = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", self.folder / "ca.pem"]
        if file is not None:
            words += ["-cert", self.folder / f"{file}.pem", "-key", self.folder / f"{file}.key"]
        return run([*words, "-ign_eof", *options], 10, stdin=None, input="hello\n")


def alert_in(said: str) -> int:
    """The number of the alert that `s_client` got; 0 for none."""
    found = re.search(r"SSL alert number (\d+)", said)
    return int(found[1]) if found else 0


class Service:
    """A proxy with one service, and a port for it; `text` is what its table says besides."""

    def __init__(self, programs: Programs, backends: list[Backend], text: str) -> None:
        self.port, self.backends = free_port(), backends
        self.proxy: Proxy = programs.rproxy(self.table(text))

    def table(self, text: str) -> str:
        peers = ", ".join(backend.location for backend in self.backends)
        return f'[l4.db]\nlisten = "127.0.0.1:{self.port}"\nupstream = [{peers}]\n{text}'

    def reload(self, text: str) -> None:
        self.proxy.reload(self.table(text))

    def ended(self, number: int = 1) -> dict[str, str]:
        """The last line of that many in the journal."""
        until(lambda: len(self.proxy.ends()) >= number, f"{number} lines in the journal")
        assert len(self.proxy.ends()) == number
        return self.proxy.ends()[-1]


class HalfClosing:
    """A TLS client that says goodbye and goes on reading, which the stdlib's sockets cannot."""

    def __init__(self, identities: Identities, port: int) -> None:
        self.stream = connect(port)
        self._got, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = identities.context("bob").wrap_bio(self._got, self._out, server_hostname="localhost")
        while not self._tried(self._tls.do_handshake):
            self._got.write(self.stream.recv(CHUNK))

    def __enter__(self) -> HalfClosing:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stream.close()

    def _tried(self, step: object) -> bool:
        try:
            step()  # type: ignore[operator]
        except ssl.SSLWantReadError:
            return False
        finally:
            self.stream.sendall(self._out.read())
        return True

    def send_all(self, size: int, seed: int) -> str:
        """Send so much, then goodbye; the hash."""
        plain, ours = socket.socketpair()
        sender = threading.Thread(target=self._carry, args=(ours,))
        sender.start()
        with plain:
            summary = send_pattern(plain, size, seed)
        sender.join()
        self._tried(self._tls.unwrap)
        return summary

    def _carry(self, ours: socket.socket) -> None:
        with ours:
            while chunk := ours.recv(CHUNK):
                self._tls.write(chunk)
                self.stream.sendall(self._out.read())

    def send(self, octets: bytes) -> None:
        self._tls.write(octets)
        self.stream.sendall(self._out.read())

    def complain(self) -> None:
        """Take what has come for something that was tampered with: a fatal alert."""
        octets = bytearray(self.stream.recv(CHUNK))
        octets[-1] ^= 1
        self._got.write(octets)
        with suppress(ssl.SSLError):
            while self._tls.read(CHUNK):
                pass
        self.stream.sendall(self._out.read())

    def receive_all(self) -> tuple[int, str]:
        """What comes until the other side's goodbye."""
        count, ended = 0, ""
        while not ended:
            octets = self.stream.recv(CHUNK)
            if not octets:
                ended = "cut off"
            self._got.write(octets)
            try:
                while piece := self._tls.read(CHUNK):
                    count += len(piece)
                ended = "goodbye"
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                ended = "goodbye"
        return count, ended


def echo(stream: socket.socket) -> None:
    while chunk := stream.recv(CHUNK):
        stream.sendall(chunk)
