"""Lines of the request log as rpxy writes it, for `services.requestlog`, and `services.access`.

Nothing is here but the signatures: what those do in Python is the reference. Measured by `h1` and `sni_conn`
in bench/. See `native`.
"""

from __future__ import annotations


def plain_line(
    stamp: str,
    micros: int,
    host: bytes,
    client: str,
    method: bytes,
    path: bytes,
    version: str,
    status: str,
    agent: bytes,
    forwarded_for: bytes,
    upstream: str,
    asked: bytes,
) -> str | None:
    """The line if no byte of it has to be escaped and no field is longer than 1 KiB; else None.

    `host`, `method` and `path` are not empty. `stamp` is the second, `micros` its fraction.
    """
    return None


def connection_line(
    stamp: str,
    host: str,
    port: int,
    user: str,
    name: str,
    app: str,
    peer: str,
    received: int,
    sent: int,
    seconds: float,
    reason: str,
) -> str | None:
    """The line if all of it is ASCII and has no more than 3 KiB; else None.

    Where `port` is below 0, `host` is all there is to say of the client. No number is below 0 otherwise.
    """
    return None
