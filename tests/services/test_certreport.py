"""`rproxy certs`: from the files or from what is in use, in words, whatever state they are in."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rproxy.keypair import KeyPair, load_pair
from rproxy.services.acme_schedule import MOST_FAILURES, Record
from rproxy.services.certreport import Place, Row, as_objects, as_text, json_of, report, rows_of
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
    (told,) = json.loads(json_of(as_objects([found], NOW)))
    assert told == {
        "app": "a",
        "listeners": [],
        "names": ["a.example"],
        "good_for": ["a.example"],
        "source": "acme",
        "authority": "https://ca.example/dir",
        "issuer": "a.example",
        "not_after": told["not_after"],
        "days_left": told["days_left"],
        "next_attempt": told["next_attempt"],
        "problem": None,
        "served": False,
    }
    assert datetime.fromisoformat(told["not_after"]) == found.not_after
    (empty,) = as_objects([row(place(tmp_path / "nothing"))], NOW)
    assert (empty["issuer"], empty["not_after"], empty["days_left"]) == (None, None, None)
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


def test_days_left_are_whole_ones_and_below_0_once_it_is_over(tmp_path: Path) -> None:
    empty = row(place(tmp_path / "nothing"))
    for seconds, left in ((2 * 86400 + 5, 2), (86399, 0), (-1, -1), (-86401, -2)):
        (told,) = as_objects([replace(empty, not_after=NOW + timedelta(seconds=seconds))], NOW)
        assert told["days_left"] == left


# -- In use -------------------------------------------------------------------------------------------------


def served(place: Place, *pairs: KeyPair, trouble: str = "") -> Row:
    (only,) = report([place], NOW, lambda app: (pairs, trouble) if app == place.app else None)
    return only


def test_what_is_in_use_is_told_whatever_the_file_holds(tmp_path: Path) -> None:
    made = make("a.example", ends=days(20))
    pair = made.pair(tmp_path, "x")
    (tmp_path / "x.pem").write_text("oops")
    found = served(Place("f", ("a.example",), "files", tmp_path / "x.pem", tmp_path / "x.key"), pair)
    assert found.served
    assert found.not_after == made.certificate.not_valid_after_utc
    assert (found.good_for, found.problems) == (("a.example",), ())


def test_a_new_certificate_that_cannot_be_used_is_a_problem(tmp_path: Path) -> None:
    pair = make("a.example").pair(tmp_path, "x")
    where = Place("f", ("a.example", "b.example"), "files", tmp_path / "x.pem", tmp_path / "x.key")
    assert served(where, pair, trouble="x.pem is empty").problems == (
        "the new one is not used: x.pem is empty",
        "it is not good for b.example",
    )
    assert served(where).problems == ("there is no certificate yet",)
    assert served(where, trouble="x.pem is empty").problems == ("x.pem is empty",)


def test_what_acme_remembers_is_told_with_what_is_in_use(tmp_path: Path) -> None:
    at = (NOW + timedelta(days=5)).timestamp()
    where = stored(tmp_path, Record("https://ca.example/dir", renew_at=at, problem="no", problem_at=at))
    found = served(where, load_pair(where.certificate, where.key))
    assert (found.authority, found.next_attempt) == (
        "https://ca.example/dir",
        datetime.fromtimestamp(at, UTC),
    )
    assert found.problems[0].endswith(": no")


def test_what_another_process_tells_reads_the_same(tmp_path: Path) -> None:
    where = replace(stored(tmp_path, Record("https://ca.example/dir")), listeners=("tcp:443", "tcp:8443"))
    found = [served(where, load_pair(where.certificate, where.key)), row(place(tmp_path / "nothing"))]
    again = rows_of(json.loads(json_of(as_objects(found, NOW))))
    assert again == found
    assert as_text(again, NOW) == as_text(found, NOW)


def test_where_it_is_served_and_what_for_stands_in_the_text(tmp_path: Path) -> None:
    where = replace(stored(tmp_path, Record()), app="l4.db", names=(), listeners=("tcp:5000", "tcp:5001"))
    text = as_text([row(where)], NOW)
    assert text.startswith(
        "l4.db\n    names         any\n    good for      a.example\n    listens on    tcp:5000, tcp:5001\n"
    )
    assert "good for" not in as_text([row(replace(where, names=("a.example",)))], NOW)
    assert "listens on" not in as_text([row(replace(where, listeners=()))], NOW)


def test_many_names_take_several_lines_of_one_indentation(tmp_path: Path) -> None:
    names = tuple(f"a-rather-long-name-{number}.example.org" for number in range(12))
    empty = replace(row(place(tmp_path / "nothing")), names=names, problems=("x" * 300,))
    lines = as_text([empty], NOW).split("\n")
    names_end = next(number for number, line in enumerate(lines) if "source" in line)
    assert [line[:18].strip() for line in lines[1:names_end]] == ["names", *[""] * (names_end - 2)]
    assert names_end > 3
    assert max(map(len, lines[1:names_end])) <= 100
    assert all(name in "".join(lines) for name in names)
    assert "    last problem  " + "x" * 300 in lines
