"""Why a TLS handshake with a client came to nothing: in words for the log, as a code for the journal.

Told by `terminate` and `mutual`; `services.jails` knows the codes from the journal. Imports OpenSSL.
"""

from __future__ import annotations

from typing import Any, Final

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL
from twisted.logger import Logger

from rproxy.errors import NoCommonProtocol, TooSlow
from rproxy.interfaces import Arrival

Code = SSL.X509VerificationCodes
REVOCATION_UNKNOWN = "revocation_unknown"
BAD_CERTIFICATE = "bad_certificate"
HANDSHAKE_FAILED = "handshake_failed"
TROUBLES: Final = {
    Code.ERR_CERT_HAS_EXPIRED: "certificate_expired",
    Code.ERR_CERT_REVOKED: "certificate_revoked",
    Code.ERR_DEPTH_ZERO_SELF_SIGNED_CERT: "unknown_ca",
    Code.ERR_SELF_SIGNED_CERT_IN_CHAIN: "unknown_ca",
    Code.ERR_UNABLE_TO_GET_ISSUER_CERT: "unknown_ca",
    Code.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY: "unknown_ca",
    Code.ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE: "unknown_ca",
    Code.ERR_UNABLE_TO_GET_CRL: REVOCATION_UNKNOWN,
    Code.ERR_CRL_NOT_YET_VALID: REVOCATION_UNKNOWN,
    Code.ERR_CRL_HAS_EXPIRED: REVOCATION_UNKNOWN,
}
"""What is said about a client's certificate that OpenSSL has not verified; else `BAD_CERTIFICATE`."""
FAILURES: Final = {
    "peer did not return a certificate": "certificate_required",
    "unsupported protocol": "protocol_version",
    "no application protocol": NoCommonProtocol.reason,
    "the other side left": "client_left",
}
"""The same for other ends of a handshake, by OpenSSL's words; else `HANDSHAKE_FAILED`."""


def reason_of(words: str, error: BaseException | None, connection: Any) -> str:
    """The code for what `TLSTransport.handshake_failed` was told about this `SSL.Connection`."""
    if error is None:
        return TooSlow.reason
    if words == "certificate verify failed":
        trouble: int = Binding.lib.SSL_get_verify_result(connection._ssl)
        return TROUBLES.get(trouble, BAD_CERTIFICATE)
    return FAILURES.get(words, HANDSHAKE_FAILED)


def log_failed_handshake(log: Logger, arrival: Arrival, app: str, why: str) -> None:
    """One line of the caller's logger, at a level that a busy port can bear: most of it is scanners."""
    log.info(
        "TLS handshake of {client} with {app} failed: {why} (name {name}, listener {listener})",
        client=str(arrival.client),
        app=app,
        why=why,
        name=arrival.server_name or "-",
        listener=arrival.listener or "-",
    )
