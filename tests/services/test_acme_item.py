"""What is kept in memory of a certificate, and what an order that failed is told as."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from twisted.python.failure import Failure

from rproxy.services.acme_item import Item, digest, life_of, moment_of, problem_of
from rproxy.services.acme_problems import AcmeError, Kind, unreachable
from rproxy.services.acme_registry import certificate_id
from rproxy.services.acme_schedule import Record
from tests.fakes import LogLines
from tests.tlspeers import make

BEGINS = datetime(2026, 1, 1, tzinfo=UTC)
LEAF = make("a.test", "b.test", begins=BEGINS, ends=BEGINS + timedelta(days=90)).certificate
DAY = 86400.0


def item(*names: str) -> Item:
    return Item("a", names, Record(turn=1))


def test_a_certificate_that_is_used_brings_its_life_and_its_record() -> None:
    wanted = item("a.test")
    wanted.use(LEAF, ["a.test", "b.test"], Random(1))
    assert (wanted.leaf, wanted.life, wanted.record.turn) == (LEAF, life_of(LEAF), 1)
    assert wanted.record.certificate == certificate_id(LEAF)
    begins = BEGINS.timestamp() + 60 * DAY
    assert begins <= wanted.record.renew_at <= begins + 0.02 * 90 * DAY


def test_its_life_is_in_epoch_seconds() -> None:
    life = life_of(LEAF)
    assert (life.begins, life.ends - life.begins) == (BEGINS.timestamp(), 90 * DAY)


@pytest.mark.parametrize(
    ("names", "complete"), [(("a.test",), True), (("a.test", "b.test"), True), (("a.test", "c.test"), False)]
)
def test_it_is_complete_if_it_is_good_for_all_names_that_are_wanted(
    names: tuple[str, ...], complete: bool
) -> None:
    wanted = item(*names)
    wanted.use(LEAF, ["a.test", "b.test"], Random(1))
    assert wanted.complete is complete


def test_the_same_certificate_keeps_its_moment() -> None:
    wanted = item("a.test")
    wanted.use(LEAF, ["a.test"], Random(1))
    chosen = wanted.record.renew_at
    wanted.use(LEAF, ["a.test"], Random(2))
    assert wanted.record.renew_at == chosen


def test_who_has_no_certificate_comes_first_and_then_who_loses_it_first() -> None:
    none, soon, late = item(), item(), item()
    late.use(LEAF, (), Random(1))
    soon.use(make("a.test").certificate, (), Random(1))
    soon.life = life_of(make("a.test", begins=BEGINS, ends=BEGINS + timedelta(days=9)).certificate)
    assert sorted([late, none, soon], key=Item.urgency) == [none, soon, late]


# -- problems


def test_what_the_authority_said_stays_as_it_is() -> None:
    said = unreachable("it does not answer")
    assert problem_of(Failure(said), "a") is said


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (PermissionError(13, "Permission denied", "/x/key.pem"), "cannot use /x/key.pem: Permission denied"),
        (ValueError("the key is not for it"), "the key is not for it"),
    ],
)
def test_trouble_on_this_machine_is_told_in_its_words(trouble: Exception, words: str) -> None:
    with LogLines() as log:
        problem = problem_of(Failure(trouble), "a")
    assert (problem.kind, problem.words, log.texts("rproxy")) == (Kind.OURS, words, [])


def test_a_mistake_of_ours_is_in_the_log_and_nowhere_else() -> None:
    with LogLines() as log:
        problem = problem_of(Failure(ZeroDivisionError("secret")), "a")
    assert isinstance(problem, AcmeError)
    assert (problem.kind, "secret" in problem.words) == (Kind.OURS, False)
    assert log.texts("rproxy.services.acme_item") == ["the order for a failed"]


# -- words


def test_settings_are_the_same_whatever_the_order_of_the_names() -> None:
    assert digest("x", ["a", "b"]) == digest("x", ["b", "a"])
    assert (
        len({digest("x", ["a", "b"]), digest("y", ["a", "b"]), digest("x", ["ab"]), digest("x", ["a"])}) == 4
    )


def test_moments_are_for_people() -> None:
    assert moment_of(0.9) == "1970-01-01 00:00:00 UTC"
