"""What `rproxy certs` prints: every certificate, from the files on disk. Nothing is asked of a running proxy.

`assemble_tls.certificate_places` says where to look; `command` prints.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from rproxy.keypair import KeyPair, load_pair
from rproxy.services.acme_registry import read_budget, read_record
from rproxy.services.acme_schedule import Life
from rproxy.services.localca import RENEW_AFTER


@dataclass(frozen=True, slots=True)
class Place:
    """Where the certificate of an app is to be found."""

    app: str
    names: tuple[str, ...]
    source: str
    """"files", "self-signed" or "acme"."""
    certificate: Path
    key: Path
    record: Path | None = None
    """What ACME remembers of it."""
    budget: Path | None = None
    """The failures of the last hour."""


@dataclass(frozen=True, slots=True)
class Row:
    """A certificate as a person wants to know about it. The moments are in UTC."""

    app: str
    names: tuple[str, ...]
    source: str
    authority: str
    """The directory of the ACME authority that signed it, where that is known."""
    issuer: str
    not_after: datetime | None
    next_attempt: datetime | None
    """None: nobody here renews it."""
    problems: tuple[str, ...]
    """The last problem with getting the next one, and what is wrong with the one there is; sentences."""


def report(places: Sequence[Place], now: datetime) -> list[Row]:
    """A row for each place."""
    return [_row(place, now) for place in places]


def as_text(rows: Sequence[Row], now: datetime) -> str:
    """For a terminal: a paragraph per app."""
    return "\n".join(_paragraph(row, now) for row in rows)


def as_json(rows: Sequence[Row]) -> str:
    """For a program: a list of objects, moments as in RFC 3339, null for what there is not."""
    return json.dumps([_object(row) for row in rows], indent=2) + "\n"


def _row(place: Place, now: datetime) -> Row:
    pair, problems = None, []
    if place.source == "files" or place.certificate.exists():
        try:
            pair = load_pair(place.certificate, place.key)
            problems = _problems(pair, place, now)
        except ValueError as problem:
            problems = [str(problem)]
    else:
        problems = ["there is no certificate yet"]
    told = _told(place)
    return Row(
        place.app,
        place.names,
        place.source,
        read_record(place.record).authority if place.record is not None else "",
        _issuer(pair.leaf) if pair is not None else "",
        pair.leaf.not_valid_after_utc if pair is not None else None,
        _next_attempt(place, pair, now),
        (*([told] if told else []), *problems),
    )


def _problems(pair: KeyPair, place: Place, now: datetime) -> list[str]:
    missing = [name for name in place.names if not pair.covers(name)]
    uncovered = [f"it is not good for {', '.join(missing)}"] if missing else []
    if place.record is None:
        return [*pair.concerns(now), *uncovered]
    ends = pair.leaf.not_valid_after_utc
    return [f"it has expired on {_moment(ends)}", *uncovered] if ends < now else uncovered


def _told(place: Place) -> str:
    """The last problem with an authority; none once it has signed."""
    if place.record is None:
        return ""
    record = read_record(place.record)
    if not record.problem:
        return ""
    return f"{_moment(datetime.fromtimestamp(record.problem_at, UTC))}: {record.problem}"


def _next_attempt(place: Place, pair: KeyPair | None, now: datetime) -> datetime | None:
    if place.source == "self-signed" and pair is not None:
        return max(pair.leaf.not_valid_before_utc + RENEW_AFTER, now)
    if place.record is None or place.budget is None:
        return None
    life, complete = None, False
    if pair is not None:
        leaf = pair.leaf
        life = Life(leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp())
        complete = all(map(pair.covers, place.names))
    opens = read_budget(place.budget).open_at(place.names, now.timestamp())
    due = max(read_record(place.record).due_at(life, complete), opens, now.timestamp())
    return datetime.fromtimestamp(due, UTC)


def _issuer(leaf: x509.Certificate) -> str:
    """The issuer's common name and organization."""
    found = [
        str(attribute.value)
        for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)
        for attribute in leaf.issuer.get_attributes_for_oid(kind)[:1]
    ]
    text = ", ".join(found) or leaf.issuer.rfc4514_string() or "nobody"
    return "".join(c if c.isprintable() else " " for c in text[:120])


def _paragraph(row: Row, now: datetime) -> str:
    ends, attempt = row.not_after, row.next_attempt
    facts = {
        "names": ", ".join(row.names),
        "source": f"{row.source}, {row.authority}" if row.authority else row.source,
        "issuer": row.issuer or "-",
        "not after": f"{_moment(ends)}, {_distance(ends, now)}" if ends else "-",
        "next attempt": f"{_moment(attempt)}, {_distance(attempt, now)}" if attempt else "-",
        "last problem": "\n                  ".join(row.problems) or "none",
    }
    lines = [f"    {name:12}  {value}\n" for name, value in facts.items()]
    return f"{row.app}\n{''.join(lines)}"


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _distance(moment: datetime, now: datetime) -> str:
    """How far away, in the largest unit that there is more than one of."""
    seconds = (moment - now).total_seconds()
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if abs(seconds) >= 2 * size:
            count = int(abs(seconds) // size)
            return f"in {count} {unit}" if seconds > 0 else f"{count} {unit} ago"
    return "now"


def _object(row: Row) -> dict[str, Any]:
    return {
        "app": row.app,
        "names": row.names,
        "source": row.source,
        "authority": row.authority or None,
        "issuer": row.issuer or None,
        "not_after": row.not_after.isoformat() if row.not_after else None,
        "next_attempt": row.next_attempt.isoformat() if row.next_attempt else None,
        "problem": "; ".join(row.problems) or None,
    }
