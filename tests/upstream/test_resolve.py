"""Names: asked once, answered from memory, kept when the resolver fails; nothing waits that need not."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import DNSLookupError
from twisted.internet.task import Clock

from rproxy.upstream.resolve import FRESH, MOST, RETRY, Names
from tests.fakes import LogLines


class Resolver:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.questions: list[str] = []
        self.open: list[Any] = []

    def resolveHostName(self, receiver: Any, hostName: str, *rest: Any) -> None:
        self.questions.append(hostName)
        receiver.resolutionBegan(None)
        self.open.append(receiver)

    def answer(self, *hosts: str) -> None:
        receiver = self.open.pop(0)
        for host in hosts:
            receiver.addressResolved(type("Found", (), {"host": host}))
        receiver.resolutionComplete()


class Setup:
    def __init__(self) -> None:
        self.clock, self.resolver = Clock(), Resolver()
        self.names = Names(self.clock, self.resolver)  # type: ignore[arg-type]

    def ask(self, *answer: str) -> tuple[str, ...]:
        """Ask again after the answer has aged."""
        self.clock.advance(FRESH)
        self.names.known("db.internal")
        self.resolver.answer(*answer)
        return self.names.known("db.internal")


@pytest.fixture
def it() -> Setup:
    return Setup()


def outcome(answer: Deferred[Any]) -> list[Any]:
    seen: list[Any] = []
    answer.addBoth(seen.append)
    return seen


def test_the_first_question_waits_and_all_who_wait_are_told(it: Setup) -> None:
    first, second = outcome(it.names.first("db.internal")), outcome(it.names.first("db.internal"))
    assert (first, second, it.resolver.questions) == ([], [], ["db.internal"])
    it.resolver.answer("10.0.0.2", "2001:db8::2")
    assert first == second == [("10.0.0.2", "2001:db8::2")]


def test_a_fresh_answer_costs_no_question(it: Setup) -> None:
    it.ask("10.0.0.2")
    it.clock.advance(FRESH - 0.1)
    assert outcome(it.names.first("db.internal")) == [("10.0.0.2",)]
    assert len(it.resolver.questions) == 1


def test_an_old_answer_is_used_while_a_new_one_is_fetched(it: Setup) -> None:
    it.ask("10.0.0.2")
    it.clock.advance(FRESH)
    assert outcome(it.names.first("db.internal")) == [("10.0.0.2",)]
    assert len(it.resolver.questions) == 2
    it.names.known("db.internal")
    assert len(it.resolver.questions) == 2, "one question at a time"
    it.resolver.answer("10.0.0.3")
    assert it.names.known("db.internal") == ("10.0.0.3",)


def test_an_answer_outlives_the_resolver(it: Setup) -> None:
    it.ask("10.0.0.2")
    assert it.ask() == ("10.0.0.2",)
    it.clock.advance(RETRY)
    assert it.names.known("db.internal") == ("10.0.0.2",)
    assert len(it.resolver.questions) == 3, "while it fails it is asked every few seconds"


def test_a_name_that_does_not_resolve_fails_all_who_wait(it: Setup) -> None:
    waiting = outcome(it.names.first("nowhere.internal"))
    it.resolver.answer()
    assert waiting[0].check(DNSLookupError)
    assert "nowhere.internal does not resolve" in waiting[0].getErrorMessage()


def test_a_name_that_does_not_resolve_is_not_asked_for_each_connection(it: Setup) -> None:
    outcome(it.names.first("nowhere.internal"))
    it.resolver.answer()
    assert outcome(it.names.first("nowhere.internal"))[0].check(DNSLookupError)
    assert len(it.resolver.questions) == 1
    it.clock.advance(RETRY)
    assert outcome(it.names.first("nowhere.internal")) == []
    assert len(it.resolver.questions) == 2


def test_one_that_gave_up_waiting_is_left_out(it: Setup) -> None:
    gone, waiting = it.names.first("db.internal"), it.names.first("db.internal")
    seen = outcome(gone), outcome(waiting)
    gone.cancel()
    it.resolver.answer("10.0.0.2")
    assert seen[1] == [("10.0.0.2",)]
    assert len(seen[0]) == 1


def test_addresses_are_kept_once_each_in_order_and_not_without_end(it: Setup) -> None:
    many = [f"10.0.{n}.1" for n in range(MOST + 5)]
    assert it.ask("10.0.0.1", "10.0.0.9", *many) == ("10.0.0.1", "10.0.0.9", *many[1:])[:MOST]


def test_the_answer_stays_the_same_object_until_it_changes(it: Setup) -> None:
    """`Peer.targets` caches by identity."""
    it.ask("10.0.0.2")
    assert it.names.known("db.internal") is it.names.known("db.internal")


def test_failing_and_coming_back_is_logged_once_each(it: Setup) -> None:
    it.ask("10.0.0.2")
    with LogLines() as log:
        it.ask()
        it.ask()
        it.ask("10.0.0.3")
        it.ask("10.0.0.3")
    assert log.texts("rproxy.upstream.resolve") == [
        "db.internal does not resolve; using ('10.0.0.2',)",
        "db.internal resolves again",
    ]


def test_names_that_the_configuration_lost_are_forgotten(it: Setup) -> None:
    it.ask("10.0.0.2")
    it.names.known("asking.internal")
    it.names.forget({"other.internal"})
    assert set(it.names._names) == {"asking.internal"}, "one that is being asked stays for its answer"
    it.resolver.answer("10.0.0.5")
    it.names.forget(set())
    assert it.names._names == {}
