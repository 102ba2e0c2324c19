"""What rproxy is to reach. A ratio to the better of nginx and HAProxy unless the case says otherwise."""

from __future__ import annotations

from figures import Figure

RATIOS = {
    "sni_conn": 1.3,
    "sni_bulk": 0.5,
    "sni_names": 1.05,
    "mtls_conn": 2.0,
    "mtls_bulk": 1.5,
    "h1": 1.1,
    "h1_browser": 1.2,
    "h1_newconn": 1.5,
    "h1_bulk": 0.6,
    "tls_h1": 1.2,
    "tls_handshake": 1.1,
    "tls_bulk": 1.0,
    "h2": 13.0,
    "h2_bulk": 3.0,
}
COSTS = {"sni_idle": 16.0, "h1_idle": 12.0}
"""KiB."""
ADDED = {"limits_conn": 3.0, "limits_request": 1.0}
"""Microseconds."""
SLOWEST = {"h1_half": 2.0}
"""Ratios of the time in which 99 % are answered."""


def aim(figure: Figure) -> str:
    """For people; empty where nothing was set."""
    if figure.unit == "ms p99" and figure.case in SLOWEST:
        return f"{SLOWEST[figure.case]:g}"
    if figure.case in RATIOS:
        return f"{RATIOS[figure.case]:g}"
    limits, unit = (ADDED, "us") if figure.baseline else (COSTS, "KiB")
    return f"{limits[figure.case]:g} {unit}" if figure.case in limits else ""
