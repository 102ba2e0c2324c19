"""A line of the request log as rpxy writes it, for `services.requestlog`; see `native`.

Nothing is here but the signature: what `requestlog` does in Python is the reference. Measured by `h1` in
bench/.
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
