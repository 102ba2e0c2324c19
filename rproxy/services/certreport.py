"""What `rproxy certs` prints: every certificate, as it is in use or, where no proxy runs, as it is on disk.

`assemble_tls.certificate_places` says where to look; `assemble_admin` tells, `command_certs` prints.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from textwrap import wrap
from typing import Any, Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from rproxy.keypair import KeyPair, load_pair
from rproxy.services.acme_registry import read_budget, read_record
from rproxy.services.acme_schedule import Budget, Life, Record
from rproxy.services.localca import RENEW_AFTER

WIDTH: Final = 100
"""Columns of the text; what has no spaces may be longer."""
DAY: Final = 86400
NONE_YET: Final = "there is no certificate yet"

InUse = Callable[[str], tuple[Sequence[KeyPair], str] | None]
"""What the clients of an app are shown, and why a newer one is not used; None where nothing is known."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the certificate of an app, or of `l4.<name>`, is to be found."""

    app: str
    names: tuple[str, ...]
    """What it serves; empty for a service that takes any name."""
    source: str
    """"files", "self-signed" or "acme"."""
    certificate: Path
    key: Path
    record: Path | None = None
    """What ACME remembers of it."""
    budget: Path | None = None
    """The failures of the last hour."""
    listeners: tuple[str, ...] = ()
    """Where clients are shown it, as endpoint strings."""


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
    good_for: tuple[str, ...] = ()
    """The names in the certificate."""
    listeners: tuple[str, ...] = ()
    served: bool = False
    """Whether a running proxy has said so; else it is what the files hold."""


def report(places: Sequence[Place], now: datetime, in_use: InUse = lambda app: None) -> list[Row]:
    """A row for each place."""
    paths = {place.budget for place in places if place.budget is not None}
    budgets = {path: read_budget(path) for path in paths}  # of all certificates: read once
    return [
        _row(place, now, in_use(place.app), budgets[place.budget] if place.budget is not None else None)
        for place in places
    ]


def as_text(rows: Sequence[Row], now: datetime) -> str:
    """For a terminal: a paragraph per app."""
    return "\n".join(_paragraph(row, now) for row in rows)


def as_objects(rows: Sequence[Row], now: datetime) -> list[dict[str, Any]]:
    """For a program: moments as in RFC 3339, null for what there is not."""
    return [_object(row, now) for row in rows]


def json_of(objects: Sequence[Mapping[str, Any]]) -> str:
    """These as text."""
    return json.dumps(objects, indent=2) + "\n"


def rows_of(objects: Sequence[Mapping[str, Any]]) -> list[Row]:
    """What another process has made with `as_objects`."""
    return [
        Row(
            each["app"],
            tuple(each["names"]),
            each["source"],
            each["authority"] or "",
            each["issuer"] or "",
            _read_moment(each["not_after"]),
            _read_moment(each["next_attempt"]),
            (each["problem"],) if each["problem"] else (),
            tuple(each["good_for"]),
            tuple(each["listeners"]),
            each["served"],
        )
        for each in objects
    ]


def _row(
    place: Place, now: datetime, used: tuple[Sequence[KeyPair], str] | None, budget: Budget | None
) -> Row:
    pair, problems = _on_disk(place, now) if used is None else _in_memory(place, now, *used)
    record = None if place.record is None else read_record(place.record)
    told = _told(record)
    return Row(
        place.app,
        place.names,
        place.source,
        record.authority if record is not None else "",
        _issuer(pair.leaf) if pair is not None else "",
        pair.leaf.not_valid_after_utc if pair is not None else None,
        _next_attempt(place, pair, now, record, budget),
        (*([told] if told else []), *problems),
        pair.names if pair is not None else (),
        place.listeners,
        used is not None,
    )


def _on_disk(place: Place, now: datetime) -> tuple[KeyPair | None, list[str]]:
    """The certificate, if it can be read, and what is wrong with it."""
    if place.source != "files" and not place.certificate.exists():
        return None, [NONE_YET]
    try:
        pair = load_pair(place.certificate, place.key)
    except ValueError as problem:
        return None, [str(problem)]
    return pair, _problems(pair, place, now)


def _in_memory(
    place: Place, now: datetime, pairs: Sequence[KeyPair], trouble: str
) -> tuple[KeyPair | None, list[str]]:
    """The same for what clients are shown."""
    if not pairs:
        return None, [trouble or NONE_YET]
    newer = [f"the new one is not used: {trouble}"] if trouble else []
    return pairs[0], [*newer, *_problems(pairs[0], place, now)]


def _problems(pair: KeyPair, place: Place, now: datetime) -> list[str]:
    missing = [name for name in place.names if not pair.covers(name)]
    uncovered = [f"it is not good for {', '.join(missing)}"] if missing else []
    if place.record is None:
        return [*pair.concerns(now), *uncovered]
    ends = pair.leaf.not_valid_after_utc
    return [f"it has expired on {_moment(ends)}", *uncovered] if ends < now else uncovered


def _told(record: Record | None) -> str:
    """The last problem with an authority; none once it has signed."""
    if record is None or not record.problem:
        return ""
    return f"{_moment(datetime.fromtimestamp(record.problem_at, UTC))}: {record.problem}"


def _next_attempt(
    place: Place, pair: KeyPair | None, now: datetime, record: Record | None, budget: Budget | None
) -> datetime | None:
    if place.source == "self-signed" and pair is not None:
        return max(pair.leaf.not_valid_before_utc + RENEW_AFTER, now)
    if record is None or budget is None:
        return None
    life, complete = None, False
    if pair is not None:
        leaf = pair.leaf
        life = Life(leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp())
        complete = all(map(pair.covers, place.names))
    opens = budget.open_at(place.names, now.timestamp())
    due = max(record.due_at(life, complete), opens, now.timestamp())
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
        "names": ", ".join(row.names) or "any",
        "good for": ", ".join(row.good_for) if set(row.good_for) != set(row.names) else "",
        "listens on": ", ".join(row.listeners),
        "source": f"{row.source}, {row.authority}" if row.authority else row.source,
        "issuer": row.issuer or "-",
        "not after": f"{_moment(ends)}, {_distance(ends, now)}" if ends else "-",
        "next attempt": f"{_moment(attempt)}, {_distance(attempt, now)}" if attempt else "-",
        "last problem": "\n".join(row.problems) or "none",
    }
    return f"{row.app}\n" + "".join(_fact(name, value) for name, value in facts.items() if value)


def _fact(name: str, value: str) -> str:
    """A line, or several of the same indentation."""
    lines = [
        line
        for part in value.split("\n")
        for line in wrap(part, WIDTH - len(_MARGIN), break_long_words=False, break_on_hyphens=False)
    ]
    return f"    {name:12}  " + f"\n{_MARGIN}".join(lines) + "\n"


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _distance(moment: datetime, now: datetime) -> str:
    """How far away, in the largest unit that there is more than one of."""
    seconds = (moment - now).total_seconds()
    for unit, size in (("days", DAY), ("hours", 3600), ("minutes", 60)):
        if abs(seconds) >= 2 * size:
            count = int(abs(seconds) // size)
            return f"in {count} {unit}" if seconds > 0 else f"{count} {unit} ago"
    return "now"


def _object(row: Row, now: datetime) -> dict[str, Any]:
    ends = row.not_after
    return {
        "app": row.app,
        "listeners": row.listeners,
        "names": row.names,
        "good_for": row.good_for,
        "source": row.source,
        "authority": row.authority or None,
        "issuer": row.issuer or None,
        "not_after": ends.isoformat() if ends else None,
        "days_left": int((ends - now).total_seconds() // DAY) if ends else None,
        "next_attempt": row.next_attempt.isoformat() if row.next_attempt else None,
        "problem": "; ".join(row.problems) or None,
        "served": row.served,
    }


def _read_moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


_MARGIN: Final = " " * 18
