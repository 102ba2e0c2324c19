"""Sticky sessions: the cookie that keeps a client at one peer of a route. Asked by `exchange` per request.

The cookie is sealed, so nobody learns or chooses a peer by it. It outlives the process, so `now` is seconds
since 1970. It is sealed as rpxy seals its own (since 0.12):

    base64url(1, nonce[12], AES-256-GCM(expiry as int64, server id))

but it is another cookie, on purpose:

- It has no Domain, so that only the host that was asked gets it back, of all the names that an app may have,
  and no subdomain, which may be somebody else's (RFC 6265 §8.6).
- It has another name, or a client that knew rpxy would send both for a while.
- It is renewed while it is used. rpxy's ends 300 s after it was set, so that we do not read it costs a client
  no more than rpxy itself does every five minutes.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from email.utils import formatdate
from hashlib import sha256
from typing import NamedTuple

DEFAULT_NAME = "rproxy_sticky"
DEFAULT_AGE = 300
"""Seconds, as in rpxy; here they count from the last time the cookie was renewed."""
SECRET_BYTES = 32
"""Bytes of a key of AES-256."""
MAX_KNOWN = 1024
"""Valid cookies kept with what they say, 0.4 KiB each: clients repeat theirs with every request, and opening
one costs 10 µs."""
MOST_TRIED = 4
"""Cookies of our name that are opened for one request. Below the paths of two sticky routes a client sends
both, the nearer one first (RFC 6265 §5.4); few nest deeper, and a head full of them would cost 5 ms."""


class Token(NamedTuple):
    """What a valid cookie says."""

    server: str
    """The `server_id` of a peer, which may be gone."""
    expiry: float
    """Seconds since 1970."""


def server_id(uri: str, index: int) -> str:
    """The identity of the peer at `index` (from 0) of its group; `uri` ends with `/`: `https://10.0.0.5:8443/`."""
    return _encoded(sha256(f"{uri}&index={index}".encode()).digest()).decode("ascii")


class StickyCookie:
    """Reads and writes the cookie of one route."""

    __slots__ = (
        "_age",
        "_attributes",
        "_bound",
        "_cipher",
        "_entropy",
        "_find",
        "_invalid",
        "_known",
        "name",
    )

    def __init__(
        self,
        secret: bytes,
        entropy: Callable[[int], bytes],
        *,
        path: str = "/",
        name: str = DEFAULT_NAME,
        age: int = DEFAULT_AGE,
    ) -> None:
        """`entropy(n)` gives n bytes that never come again (`os.urandom`); `age` is seconds, 1 or more.

        Raises ValueError for what no Set-Cookie can carry and for a secret that has not 32 bytes.
        """
        # Here, so that only a configuration with sticky routes loads it.
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if len(secret) != SECRET_BYTES:
            raise ValueError(f"The secret of a sticky cookie has {SECRET_BYTES} bytes.")
        if not _IS_TOKEN(name) or not _IS_ATTRIBUTE(path) or age < 1:
            raise ValueError(f"No cookie can be called {name!r} for {path!r} for {age} s.")
        self.name = name.encode("ascii")
        self._age = age
        self._cipher, self._invalid = AESGCM(secret), InvalidTag
        self._find = re.compile(rb"(?:\A|;)[ \t]*+" + re.escape(self.name) + rb"=([^; \t]*+)").findall
        self._known: dict[bytes, Token] = {}
        self._entropy = entropy
        # A cookie of another path, or under another name, is not valid here. Between the two zeros rpxy has
        # the domain. Another app's cookie may open: it names a peer that this route has too, or none of its.
        self._bound = f"rpxy-sticky-v1\0{name}\0\0{path}\0".encode("ascii")
        # Behind a semicolon would stand another attribute: such a path gets the cookie of the whole host.
        where = path if path and ";" not in path else "/"
        self._attributes = f"; Max-Age={age}; Path={where}; HttpOnly; SameSite=Lax".encode("ascii")

    def read(self, cookies: Sequence[bytes], now: float) -> Token | None:
        """What our cookie in these Cookie fields says, the first valid one; None if none is."""
        for value in self._find(b";".join(cookies))[:MOST_TRIED]:
            token = self._known.get(value) or self._open(value)
            if token is not None and now < token.expiry:
                return token
        return None

    def is_due(self, token: Token, now: float) -> bool:
        """Whether to set the cookie again: more than half of its age has passed, or the age was changed."""
        return not self._age / 2 <= token.expiry - now <= self._age

    def set_cookie(self, server: str, now: float, *, https: bool) -> bytes:
        """The value of a Set-Cookie for the peer `server`; `https`: whether the client itself speaks TLS."""
        expiry = int(now) + self._age
        nonce = self._entropy(12)
        sealed = self._cipher.encrypt(nonce, expiry.to_bytes(8, "big") + server.encode("ascii"), self._bound)
        value = self.name + b"=" + _encoded(b"\x01" + nonce + sealed)
        value += b"; Expires=" + formatdate(expiry, usegmt=True).encode("ascii") + self._attributes
        return value + b"; Secure" if https else value

    def _open(self, value: bytes) -> Token | None:
        if not _IS_SEALED(value):
            return None
        sealed = urlsafe_b64decode(value + b"=")
        if sealed[0] != 1:
            return None
        try:
            opened = self._cipher.decrypt(sealed[1:13], sealed[13:], self._bound)
        except self._invalid:
            return None
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        token = Token(opened[8:].decode("latin-1"), int.from_bytes(opened[:8], "big", signed=True))
        self._known[value] = token
        return token


def remove_cookie(value: bytes, name: bytes) -> bytes | None:
    """A Cookie field's value without the cookies called `name`; None if no other is left.

    The value itself if it has none of them.
    """
    if name not in value:
        return value
    prefix = name + b"="
    cookies = [cookie.strip(b" \t") for cookie in value.split(b";")]
    kept = [cookie for cookie in cookies if cookie and cookie != name and not cookie.startswith(prefix)]
    if len(kept) == len(cookies):
        return value
    return b"; ".join(kept) or None


def _encoded(raw: bytes) -> bytes:
    return urlsafe_b64encode(raw).rstrip(b"=")


_IS_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII).fullmatch
_IS_ATTRIBUTE = re.compile(r"[!-~]*", re.ASCII).fullmatch
# 1 byte of version, 12 of nonce, 8 of expiry, 43 of id, 16 of tag: 80 bytes are 107 characters.
_IS_SEALED = re.compile(rb"[A-Za-z0-9_-]{107}").fullmatch
