"""`rproxy certs`: from the files alone, in words, whatever state they are in."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rproxy.services.acme_schedule import MOST_FAILURES, Record
from rproxy.services.certreport import Place, Row, as_json, as_text, report
from tests.tlspeers import days, make

NOW = datetime.now(UTC)


def stored(directory: Path, record: Record | None = None, **certificate: Any) -> Place:
    """A certificate by ACME."""
    path = directory / "a.example.pem"
    made = make("a.example", **certificate)
    path.touch(mode=0o600)
    path.write_bytes(made.key_pem + made.pem)
    return place(directory, record)


def place(directory: Path, record: Record | None = None) -> Place:
    path = directory / "a.example.pem"
    if record is not None:
        path.with_suffix(".json").write_text(json.dumps(asdict(record)))
    return Place(
        "a", ("a.example",), "acme", path, path, path.with_suffix(".json"), directory / "budget.json"
    )


def row(place: Place) -> Row:
    (only,) = report([place], NOW)
    return only


def test_a_certificate_by_acme_with_its_next_renewal(tmp_path: Path) -> None:
    at = (NOW + timedelta(days=5)).timestamp()
    authority = make(ca=True)
    place = stored(tmp_path, Record("https://ca.example/dir", renew_at=at), issuer=authority, ends=days(30))
    found = row(place)
    assert (found.app, found.names, found.source) == ("a", ("a.example",), "acme")
    assert (found.authority, found.issuer) == ("https://ca.example/dir", "authority 0")
    assert found.not_after is not None
    assert found.next_attempt == datetime.fromtimestamp(at, UTC)
    assert found.problems == ()
    text = as_text([found], NOW)
    assert "\n    issuer        authority 0\n" in text
    assert f"\n    not after     {found.not_after:%Y-%m-%d %H:%M} UTC, in " in text
    assert text.endswith(" UTC, in 5 days\n    last problem  none\n")


def test_the_last_problem_is_told_with_its_time_and_the_next_attempt(tmp_path: Path) -> None:
    then = NOW - timedelta(hours=3)
    soon = (NOW + timedelta(minutes=30)).timestamp()
    record = Record(problem="the name leads nowhere", problem_at=then.timestamp(), not_before=soon)
    found = row(place(tmp_path, record))
    assert found.problems == (
        f"{then:%Y-%m-%d %H:%M} UTC: the name leads nowhere",
        "there is no certificate yet",
    )
    assert found.next_attempt == datetime.fromtimestamp(soon, UTC)
    text = as_text([found], NOW)
    assert "issuer        -\n" in text
    assert "the name leads nowhere\n                  there is no certificate yet\n" in text


def test_a_budget_that_is_used_up_puts_the_attempt_off(tmp_path: Path) -> None:
    began = NOW.timestamp() - 60
    (tmp_path / "budget.json").write_text(json.dumps({"a.example": [began] * MOST_FAILURES}))
    found = row(place(tmp_path))
    assert found.next_attempt == datetime.fromtimestamp(began + 3600, UTC)


def test_what_was_never_tried_is_tried_now(tmp_path: Path) -> None:
    assert row(place(tmp_path)).next_attempt == NOW
    assert "UTC, now\n" in as_text([row(place(tmp_path))], NOW)


def test_a_certificate_that_has_ended_or_lacks_a_name_is_told(tmp_path: Path) -> None:
    ended = stored(tmp_path, Record(), begins=days(-9), ends=days(-2))
    (told,) = row(ended).problems
    assert told.startswith("it has expired on ")
    more = replace(stored(tmp_path, Record()), names=("a.example", "b.example"))
    assert row(more).problems == ("it is not good for b.example",)
    assert row(more).next_attempt == NOW


def test_short_certificates_of_acme_are_no_concern(tmp_path: Path) -> None:
    assert row(stored(tmp_path, Record(renew_at=2e9), ends=days(1))).problems == ()


def test_files_are_told_as_the_proxy_would(tmp_path: Path) -> None:
    certificate, key = make("a.example", ends=days(2)).write(tmp_path, "x")
    found = row(Place("f", ("a.example", "b.example"), "files", certificate, key))
    assert found.next_attempt is None
    assert found.authority == ""
    assert f"{certificate} expires on " in found.problems[0]
    assert found.problems[1] == "it is not good for b.example"
    gone = row(Place("f", ("a.example",), "files", tmp_path / "no", tmp_path / "no"))
    assert gone.problems == (f"cannot read {tmp_path}/no: No such file or directory",)


def test_a_certificate_of_our_own_authority_is_renewed_by_us(tmp_path: Path) -> None:
    path = tmp_path / "x.pem"
    made = make("a.example", ends=days(89))
    path.write_bytes(made.key_pem + made.pem)
    path.chmod(0o600)
    found = row(Place("s", ("a.example",), "self-signed", path, path))
    assert found.next_attempt is not None
    assert 58 <= (found.next_attempt - NOW).days <= 60
    none_yet = row(Place("s", ("a.example",), "self-signed", tmp_path / "no", tmp_path / "no"))
    assert none_yet.problems == ("there is no certificate yet",)


@pytest.mark.parametrize("content", [b"", b"oops"])
def test_a_damaged_file_is_told(tmp_path: Path, content: bytes) -> None:
    where = stored(tmp_path, Record())
    where.certificate.write_bytes(content)
    assert str(where.certificate) in row(where).problems[0]


def test_programs_get_json(tmp_path: Path) -> None:
    at = NOW.timestamp() + 5 * 86400
    found = row(stored(tmp_path, Record("https://ca.example/dir", renew_at=at)))
    (told,) = json.loads(as_json([found]))
    assert told == {
        "app": "a",
        "names": ["a.example"],
        "source": "acme",
        "authority": "https://ca.example/dir",
        "issuer": "a.example",
        "not_after": told["not_after"],
        "next_attempt": told["next_attempt"],
        "problem": None,
    }
    assert datetime.fromisoformat(told["not_after"]) == found.not_after
    (empty,) = json.loads(as_json([row(place(tmp_path / "nothing"))]))
    assert (empty["issuer"], empty["not_after"]) == (None, None)
    assert empty["problem"] == "there is no certificate yet"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "now"),
        (100, "now"),
        (-100, "now"),
        (150, "in 2 minutes"),
        (7300, "in 2 hours"),
        (-7300, "2 hours ago"),
        (3 * 86400, "in 3 days"),
        (-90 * 86400, "90 days ago"),
    ],
)
def test_distances_are_in_words(tmp_path: Path, seconds: float, words: str) -> None:
    ends = NOW + timedelta(seconds=seconds)
    empty = row(place(tmp_path / "nothing"))
    assert f"UTC, {words}\n" in as_text([replace(empty, not_after=ends, next_attempt=None)], NOW)
