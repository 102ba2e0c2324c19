"""The certificates of a run, made by openssl: a server's, and a client's with its authority. All P-256."""

from __future__ import annotations

import subprocess
from pathlib import Path

from configs import NAME

CLIENT = "bench@clients"
"""The common name of the client's certificate."""


def make(folder: Path) -> None:
    """cert.pem and key.pem of the servers (both.pem for HAProxy), ca.pem, and client.pem and client.key."""
    _certificate(folder, "key.pem", "cert.pem", "bench", f"subjectAltName=DNS:{NAME},DNS:localhost")
    parts = [(folder / name).read_bytes() for name in ("key.pem", "cert.pem")]
    (folder / "both.pem").write_bytes(b"".join(parts))
    _certificate(folder, "ca.key", "ca.pem", "bench authority")
    usage = ("basicConstraints=critical,CA:FALSE", "extendedKeyUsage=clientAuth")
    _certificate(folder, "client.key", "client.pem", CLIENT, *usage, issuer=("ca.pem", "ca.key"))


def _certificate(
    folder: Path, key: str, certificate: str, name: str, *extensions: str, issuer: tuple[str, ...] = ()
) -> None:
    command = ["openssl", "req", "-x509", "-nodes", "-days", "30", "-subj", f"/CN={name}"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-keyout", key, "-out", certificate]
    command += [word for extension in extensions for word in ("-addext", extension)]
    command += [word for pair in zip(("-CA", "-CAkey"), issuer, strict=False) for word in pair]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
