"""nginx, HAProxy and certificates: the programs that rproxy stands beside, with configs for these tests."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.e2e.programs import Program, Programs, accepts, until


class Certificate(NamedTuple):
    """PEM files; `both` has the key behind the certificate, as HAProxy wants it."""

    certificate: Path
    key: Path
    both: Path


def self_signed(folder: Path, *names: str) -> Certificate:
    """A certificate for `names`, signed by itself, good for an hour on either side."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    now, hour = datetime.datetime.now(datetime.UTC), datetime.timedelta(hours=1)
    certificate = (
        x509.CertificateBuilder(issuer_name=subject, subject_name=subject, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - hour)
        .not_valid_after(now + hour)
        .add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    made = Certificate(folder / "server.crt", folder / "server.key", folder / "server.pem")
    for file, content in zip(made, (pem, secret, pem + secret), strict=True):
        file.write_bytes(content)
    return made


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def nginx(programs: Programs, program: str, servers: str, ready: tuple[str, int] | str) -> Program:
    """nginx in the foreground with these `server` blocks, once it accepts at `ready`."""
    folder = programs.folder / f"nginx-{ready[1] if isinstance(ready, tuple) else 'unix'}"
    folder.mkdir()
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;"
        "events { worker_connections 512; }"
        f"http {{ access_log off; ssl_protocols TLSv1.2 TLSv1.3; {paths} {servers} }}"
    )
    words = [program, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"]
    running = programs.start(words, folder.name)
    _await(running, ready)
    return running


def haproxy(programs: Programs, program: str, config: str, ready: int) -> Program:
    """HAProxy in the foreground with these sections, once it accepts at port `ready`."""
    file = programs.folder / f"haproxy-{ready}.cfg"
    file.write_text(
        "global\n  maxconn 500\ndefaults\n  timeout connect 5s\n  timeout client 10s\n  timeout server 10s\n"
        + config
    )
    running = programs.start([program, "-db", "-f", file], file.stem)
    _await(running, ("127.0.0.1", ready))
    return running


def _await(running: Program, ready: tuple[str, int] | str) -> None:
    until(lambda: accepts(ready) or running.popen.poll() is not None, f"nobody at {ready}: {running.log}")
    assert running.popen.poll() is None, running.log
