"""What both sides of TLS tell OpenSSL and hear from it: a certificate, where to put bytes, an error's words.

Called by `tls`, `upstream.tls` and the services that keep certificates. Imports OpenSSL.
"""

from __future__ import annotations

import os
from typing import Any, Final

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL

from rproxy.keypair import KeyPair
from rproxy.native.tlsbytes import RECORD

_ffi: Final[Any] = Binding.ffi


class Scratch:
    """Where OpenSSL writes to before its bytes are taken: one for all connections of a factory."""

    __slots__ = ("at", "read", "written")

    def __init__(self) -> None:
        self.at: Any = _ffi.new("char**")
        self.read: Any = _ffi.new("char[]", RECORD)
        self.written: Any = _ffi.new("char[]", 2 * RECORD)


def use_pair(context: SSL.Context, pair: KeyPair) -> None:
    """Show this certificate. Raises `SSL.Error` when OpenSSL does not take it.

    From a file in memory, because only this call keeps the chains of several certificates apart.
    """
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pair.chain)
        context.use_certificate_chain_file(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    context.use_privatekey(pair.key)


def words_of(error: BaseException) -> str:
    """What an OpenSSL error says, in its own words; they hold nothing that the other side chose."""
    if isinstance(error, SSL.SysCallError):
        return "the other side left"
    if isinstance(error, SSL.Error):
        queue = error.args[0] if error.args else ()
        return str(queue[-1][-1]) if queue else "the other side left"
    return str(error)
