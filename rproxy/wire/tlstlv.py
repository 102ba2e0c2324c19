"""What a PROXY header of version 2 says about the TLS that has ended here. Called by `downstream.service`.

Sections are those of HAProxy's "The PROXY protocol".
"""

from __future__ import annotations

import struct

from rproxy.wire.proxyheader import ALPN, AUTHORITY, SSL, Tlvs

OVER_TLS, SHOWN_HERE, SHOWN_IN_SESSION = 0x01, 0x02, 0x04
"""PP2_CLIENT_SSL, PP2_CLIENT_CERT_CONN, PP2_CLIENT_CERT_SESS (§2.2.6)."""
VERSION, COMMON_NAME, CIPHER = 0x21, 0x22, 0x23
"""Sub-types (§2.2.6)."""
NOT_VERIFIED = 1
"""Anything but 0 where the client has shown no certificate, or none that was verified."""


def tls_tlvs(version: str, cipher: str, common_name: str | None, alpn: bytes, name: str | None) -> Tlvs:
    """TLVs for one client; `common_name` is that of its verified certificate, None if it showed none.

    `version` and `cipher` are in OpenSSL's words, `name` is the server name that the client asked for.
    """
    parts = [(VERSION, version.encode("ascii")), (CIPHER, cipher.encode("ascii"))]
    flags, verified = OVER_TLS, NOT_VERIFIED
    if common_name is not None:
        flags, verified = OVER_TLS | SHOWN_HERE | SHOWN_IN_SESSION, 0
        parts.append((COMMON_NAME, common_name.encode("utf-8")))
    inside = struct.pack("!BI", flags, verified) + b"".join(
        struct.pack("!BH", kind, len(value)) + value for kind, value in parts if value
    )
    known = ((ALPN, alpn), (AUTHORITY, (name or "").encode("ascii")), (SSL, inside))
    return tuple((kind, value) for kind, value in known if value)


def passed_on(tlvs: Tlvs) -> Tlvs:
    """Of a header that we got, what is true behind the TLS that ends here: all but what it says about TLS."""
    return tuple((kind, value) for kind, value in tlvs if kind not in (ALPN, AUTHORITY, SSL))
