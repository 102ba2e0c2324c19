"""Certificates over weeks and disasters, in a few milliseconds: the clock is in the test's hands."""

from __future__ import annotations

import json
import random
import stat
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from txacme.service import AcmeIssuingService  # type: ignore[import-untyped]

from rproxy.keypair import load_pair
from rproxy.services.acme_answers import renewal_id
from rproxy.services.acme_client import Client, Eab
from rproxy.services.acme_http import Web
from rproxy.services.acme_item import Authority as Configured
from rproxy.services.acme_problems import AcmeError, Kind
from rproxy.services.acme_registry import Registry
from rproxy.services.acme_schedule import DAY, HOUR
from rproxy.services.acme_service import AT_ONCE, IssuingService
from tests.acme_ca import BASE, Authority, problem
from tests.fakes import LogLines
from tests.services.test_acme_order import Responder

pytestmark = pytest.mark.filterwarnings("ignore:Using readBody:DeprecationWarning")  # of the fake transport
START = 1_800_000_000.0
OTHER = "https://other.example/dir"


class World:
    """A service with its authorities; `start` again is a restart of the program."""

    def __init__(self, directory: Path) -> None:
        self.clock = Clock()
        self.clock.advance(START)
        self.directory = directory
        self.authorities = {f"{BASE}/dir": Authority(self.clock.seconds)}
        self.responder = Responder()
        self.changed: list[str] = []
        self.panics: list[str] = []
        self.wanted: dict[str, tuple[str, ...]] = {"a.example": ("a.example",)}
        self.service: Any = None
        self.in_thread: Callable[..., Deferred[Any]] = maybeDeferred
        self.settings: dict[str, Any] = {}
        self.log = LogLines()

    @property
    def ca(self) -> Authority:
        return self.authorities[f"{BASE}/dir"]

    @property
    def now(self) -> float:
        return self.clock.seconds()

    def make(self) -> IssuingService:
        def connect(url: str, ca: Authority) -> Configured:
            def make_client(key: Any) -> Client:
                web, rng = Web(self.clock, ca.agent), random.Random(2)
                eab = self.settings.get("eab")
                facts = {"email": "a@example.org", "eab": eab}
                return Client(web, self.clock, self.clock.seconds, rng, url, key, **facts)  # type: ignore[arg-type]

            return Configured(url, make_client, self.settings.get("profile"))

        authorities = [connect(url, ca) for url, ca in self.authorities.items()]
        registry = Registry(self.directory, lambda *call: self.in_thread(*call))
        return IssuingService(
            self.clock,
            self.clock.seconds,
            random.Random(1),
            registry,
            lambda *call: self.in_thread(*call),
            [self.responder],
            authorities,
            lambda label: self.changed.append(label),
            email="a@example.org",
            settings=str((self.settings, list(self.authorities))),
            panic=lambda failure, label: self.panics.append(label),
        )

    def start(self) -> Any:
        self.service = self.make()
        self.service.want(self.wanted)
        self.service.startService()
        return self.service

    def restart(self) -> None:
        self.service.stopService()
        self.start()

    def wait(self, seconds: float, step: float = 1.0) -> None:
        end = self.now + seconds
        while self.now < end:
            self.clock.advance(min(step, end - self.now))

    def hours(self, number: float) -> None:
        """Passes hours in steps of ten minutes, or of an hour, with a look around after every step."""
        step = 600 if number < 48 else 3600
        for _ in range(int(number * 3600 / step)):
            self.clock.advance(step)
            self.wait(2, 1)

    def leaf(self, label: str = "a.example") -> Any:
        path = self.directory / "certificates" / f"{label}.pem"
        return load_pair(path, path).leaf

    def record(self, label: str = "a.example") -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / "certificates" / f"{label}.json").read_text())
        return found

    def told(self) -> list[str]:
        texts = self.log.texts("rproxy.services.acme_service")
        self.log.events.clear()
        return texts


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "acme")
    with world.log:
        yield world
    if world.service is not None and world.service.running:
        world.service.stopService()
        assert world.clock.getDelayedCalls() == []
        assert sorted(world.responder.began) == sorted(world.responder.ended)


def fired(deferred: Deferred[Any]) -> Any:
    results: list[Any] = []
    deferred.addBoth(results.append)
    return results[0] if results else None


# -- What it is ---------------------------------------------------------------------------------------------


def test_it_is_txacmes_service(world: World) -> None:
    world.ca.pending_looks = 1
    service = world.start()
    assert isinstance(service, AcmeIssuingService)
    valid = service.when_certs_valid()
    assert not valid.called
    world.wait(5)
    assert valid.called
    assert service.ready
    assert service.when_certs_valid().called


def test_a_certificate_is_ordered_at_once_stored_and_told(world: World) -> None:
    world.start()
    world.wait(5)
    assert world.changed == ["a.example"]
    assert world.leaf() in world.ca.issued
    path = world.directory / "certificates" / "a.example.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert world.record()["authority"] == f"{BASE}/dir"
    assert json.loads((world.directory / "budget.json").read_text()) == {}


def test_anybody_may_ask_for_a_certificate_now_and_there_is_one_order_at_a_time(world: World) -> None:
    service = world.start()
    world.wait(5)
    world.ca.pending_looks = 1
    world.ca.proven.clear()
    first, second = service.issue_cert("a.example"), service.issue_cert("a.example")
    world.wait(5)
    assert first.called
    assert second.called
    assert len(world.ca.orders) == 2


def test_a_certificate_that_no_app_wants_is_not_ordered(world: World) -> None:
    result = fired(world.start().issue_cert("z.example"))
    assert isinstance(result, Failure)
    assert result.value.words == "no app has a certificate z.example"


def test_a_few_orders_at_a_time_and_those_without_a_certificate_first(world: World) -> None:
    world.wanted = {f"n{i}.example": (f"n{i}.example",) for i in range(9)}
    world.ca.pending_looks = 3
    world.start()
    world.wait(0.1, 0.1)
    assert len(world.ca.orders) == AT_ONCE
    world.wait(60)
    assert len(world.ca.issued) == 9


def test_there_is_no_pause_between_two_orders(world: World) -> None:
    world.wanted = {f"n{i}.example": (f"n{i}.example",) for i in range(9)}
    world.start()
    world.wait(0.5, 0.1)
    assert len(world.ca.issued) == 9


def test_who_asks_for_a_certificate_is_held_to_the_budget_too(world: World) -> None:
    world.ca.disbelieved["a.example"] = problem("dns").document
    service = world.start()
    for _ in range(9):
        service.issue_cert("a.example").addErrback(lambda _: None)
        world.wait(5)
    assert len(world.ca.orders) == 4
    assert "may be tried at 2027-01-15 09:00:00 UTC" in fired(service.issue_cert("a.example")).value.words


# -- Renewal ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "first", "last"), [(90, 60, 62), (45, 30, 31.1), (6, 3, 3.3), (1, 0.5, 0.6)]
)
def test_it_is_renewed_in_good_time_whatever_its_life(
    world: World, days: int, first: float, last: float
) -> None:
    world.ca.life = timedelta(days=days)
    world.start()
    world.wait(5)
    began = world.now
    while len(world.ca.issued) == 1:
        world.hours(1 if days < 9 else 48)
        assert world.now - began < days * DAY
    assert first * DAY <= world.now - began <= last * DAY + (HOUR if days < 9 else 2 * DAY)
    assert world.changed == ["a.example"] * 2
    assert world.leaf() == world.ca.issued[1]


def test_a_restart_orders_nothing_and_keeps_the_chosen_moment(world: World) -> None:
    world.start()
    world.wait(5)
    moment = world.record()["renew_at"]
    world.restart()
    world.wait(60)
    assert len(world.ca.orders) == 1
    assert world.record()["renew_at"] == moment


def test_a_name_more_is_a_reason_to_order_and_the_old_certificate_stays_meanwhile(world: World) -> None:
    service = world.start()
    world.wait(5)
    before = world.leaf()
    world.ca.disbelieved["b.example"] = problem("dns").document
    service.want({"a.example": ("a.example", "b.example")})
    world.wait(5)
    assert world.leaf() == before
    world.ca.disbelieved.clear()
    world.hours(1)
    assert world.leaf() != before


def test_a_name_less_is_none(world: World) -> None:
    world.wanted = {"a.example": ("a.example", "b.example")}
    service = world.start()
    world.wait(5)
    service.want({"a.example": ("a.example",)})
    world.wait(60)
    assert len(world.ca.orders) == 1


def test_an_app_that_is_gone_is_not_renewed(world: World) -> None:
    service = world.start()
    world.wait(5)
    service.want({})
    world.hours(24 * 80)
    assert len(world.ca.orders) == 1


def test_a_certificate_under_another_label_is_taken_over_without_an_order(world: World) -> None:
    world.wanted = {"b.example": ("b.example", "a.example")}
    world.start()
    world.wait(5)
    world.service.stopService()
    world.wanted = {"a.example": ("a.example", "b.example")}
    world.start()
    world.wait(30)
    assert world.changed == ["b.example", "a.example"]
    assert len(world.ca.orders) == 1
    assert world.leaf("a.example") == world.leaf("b.example")


# -- Renewal information ------------------------------------------------------------------------------------


def test_the_authoritys_window_counts_and_the_old_certificate_is_named(world: World) -> None:
    world.ca.window, world.ca.explanation = (START + 3 * DAY, START + 3 * DAY + 60), "https://ca.example/why"
    world.start()
    world.wait(5)
    assert START + 3 * DAY <= world.record()["renew_at"] <= START + 3 * DAY + 60
    assert "explains when it wants a.example renewed: https://ca.example/why" in "".join(world.told())
    first = world.leaf()
    world.hours(2.9 * 24)
    assert len(world.ca.orders) == 1
    world.hours(3)
    assert len(world.ca.orders) == 2
    world.ca.window = (START + 80 * DAY, START + 81 * DAY)
    world.hours(1)
    assert len(world.ca.orders) == 2
    assert "replaces" not in world.ca.orders[0].body
    assert world.ca.orders[1].body["replaces"] == renewal_id(first)


def test_certificates_that_are_revoked_by_the_million_are_renewed_within_hours(world: World) -> None:
    world.ca.window = (START + 60 * DAY, START + 61 * DAY)
    world.start()
    world.wait(5)
    world.hours(24)
    world.ca.window = (START - DAY, START)
    world.hours(6.5)
    assert len(world.ca.orders) == 2


def test_an_authority_is_asked_as_often_as_it_wants_within_reason(world: World) -> None:
    world.ca.window, world.ca.ask_again = (START + 60 * DAY, START + 61 * DAY), "7200"
    world.start()
    world.hours(24)
    asked = [each for each in world.ca.requests if each.startswith("GET /renewal/")]
    assert 10 <= len(asked) <= 13


def test_an_authority_without_an_answer_is_not_asked_all_the_time(world: World) -> None:
    world.ca.window = (START + 60 * DAY, START + 61 * DAY)
    world.ca.instead["renewal"] = [problem("serverInternal", 500)] * 99
    world.start()
    world.hours(24)
    assert 3 <= 99 - len(world.ca.instead["renewal"]) <= 6
    assert len(world.ca.orders) == 1


def test_who_turns_to_another_authority_gets_its_certificate_at_once(world: World) -> None:
    """As from staging to the real one. The old certificate means nothing to the new authority."""
    world.authorities[OTHER] = Authority(world.clock.seconds)
    world.start()
    world.wait(5)
    world.service.stopService()
    other = world.authorities.pop(OTHER)
    world.authorities = {OTHER: other}
    other.window = (START + 60 * DAY, START + 61 * DAY)
    before = world.leaf()
    world.start()
    world.wait(5)
    assert world.leaf() != before
    assert world.record()["authority"] == OTHER
    assert [order.body.get("replaces") for order in other.orders] == [None]
    world.restart()
    world.wait(60)
    assert len(other.orders) == 1


# -- Failures -----------------------------------------------------------------------------------------------


def test_a_name_that_never_works_is_tried_four_times_an_hour_even_over_restarts(world: World) -> None:
    world.ca.disbelieved["a.example"] = problem("dns", detail="no such name").document
    times: list[float] = []
    seen = 0
    world.start()
    for _ in range(13 * 60):
        world.wait(60, 20)
        world.restart()
        if len(world.ca.orders) > seen:
            seen = len(world.ca.orders)
            times.append(world.now)
    assert len(times) >= 5
    assert all(fifth - first >= HOUR for first, fifth in zip(times, times[4:], strict=False))
    line = world.told()[0]
    assert line.startswith(f"no certificate for a.example from {BASE}/dir: a.example: no such name (dns): ")
    assert "; next attempt 2027-01-15 08:0" in line


def test_who_crashes_in_the_middle_has_not_tried_for_free(world: World) -> None:
    world.ca.pending_looks = 10**9
    for _ in range(9):
        world.start()
        world.wait(2)
        world.service.stopService()
        world.wait(60)
    assert len(world.ca.orders) == 4


def test_a_failure_blames_only_the_names_that_failed(world: World) -> None:
    world.wanted = {"a.example": ("a.example", "b.example")}
    world.ca.disbelieved["b.example"] = problem("dns").document
    world.start()
    world.wait(5)
    budget = json.loads((world.directory / "budget.json").read_text())
    assert budget.keys() == {"b.example"}


def test_an_authority_that_is_down_is_asked_ever_less_often_and_found_again(world: World) -> None:
    world.ca.instead["dir"] = [problem("serverInternal", 503, "closed")] * 10**4
    world.start()
    world.wait(60)
    asked = 10**4 - len(world.ca.instead["dir"])
    assert 3 <= asked <= 5
    world.hours(24)
    assert 10**4 - len(world.ca.instead["dir"]) - asked <= 24 * 3600 / 450 + 10
    world.ca.instead.clear()
    world.wait(900)
    assert len(world.ca.issued) == 1
    assert world.record()["problem"] == ""


def test_while_an_authority_is_down_it_is_not_asked_for_each_name(world: World) -> None:
    world.wanted = {f"n{i}.example": (f"n{i}.example",) for i in range(40)}
    world.ca.instead["dir"] = [problem("serverInternal", 503)] * 10**4
    world.start()
    world.wait(60)
    assert 10**4 - len(world.ca.instead["dir"]) <= 4 * AT_ONCE
    world.ca.instead.clear()
    world.wait(700)
    assert len(world.ca.issued) == 40


def test_a_refusal_is_not_repeated_until_something_changes(world: World) -> None:
    world.ca.instead["order"] = [problem("rejectedIdentifier", 400, "never")] * 99
    service = world.start()
    world.wait(3600)
    world.restart()
    world.wait(3600)
    assert len(world.ca.instead["order"]) == 98
    world.service.want(world.wanted)
    world.wait(60)
    assert len(world.ca.instead["order"]) == 97, "a reload: somebody has done something"
    world.settings = {"email": "another"}
    world.restart()
    world.wait(60)
    assert len(world.ca.instead["order"]) == 96
    del service


def test_too_often_is_obeyed_over_a_restart(world: World) -> None:
    world.ca.instead["order"] = [problem("rateLimited", 429, Retry_After="7200")]
    world.start()
    world.wait(5)
    world.restart()
    world.wait(7200 - 60, 30)
    assert world.ca.orders == []
    world.wait(1200)
    assert len(world.ca.issued) == 1


def test_the_next_authority_is_asked_and_the_first_one_is_the_first_again(world: World) -> None:
    other = world.authorities[OTHER] = Authority(world.clock.seconds)
    world.ca.instead["order"] = [problem("rateLimited", 429, Retry_After="7200")]
    world.start()
    world.wait(5)
    # The second authority says that its addresses are the first one's: it is the same code.
    assert other.requests[:1] == ["GET /dir"]
    assert world.record()["authority"] == OTHER
    assert world.record()["turn"] == 0
    accounts = sorted(path.name for path in (world.directory / "accounts").iterdir())
    assert len(accounts) == 2, "each has a key of its own"


def test_what_needs_a_customer_is_told_until_there_is_one(world: World) -> None:
    world.ca.customers["me"] = b"k" * 32
    world.start()
    world.wait(5)
    assert world.record()["kind"] == "refused"
    world.settings = {"eab": Eab("me", b"k" * 32)}
    world.restart()
    world.wait(5)
    assert len(world.ca.issued) == 1


def test_a_profile_is_asked_for_at_every_renewal(world: World) -> None:
    world.ca.meta = {"profiles": {"short": "x"}}
    world.ca.life = timedelta(days=6)
    world.settings = {"profile": "short"}
    world.start()
    world.hours(24 * 4)
    assert [order.body["profile"] for order in world.ca.orders] == ["short"] * 2


def test_a_certificate_about_to_end_is_a_reason_to_panic_and_one_with_weeks_is_not(world: World) -> None:
    world.start()
    world.wait(5)
    world.ca.disbelieved["a.example"] = problem("dns").document
    world.ca.proven.clear()
    world.hours(70 * 24)
    assert world.panics == []
    world.hours(8 * 24)
    assert set(world.panics) == {"a.example"}
    assert world.leaf() == world.ca.issued[0]


# -- This machine -------------------------------------------------------------------------------------------


def test_a_full_disk_costs_no_order(world: World) -> None:
    def refuse(function: Any, *arguments: Any) -> Deferred[Any]:
        if getattr(function, "__name__", "") == "_write":
            return maybeDeferred(_full)
        return maybeDeferred(function, *arguments)

    world.in_thread = refuse
    world.start()
    world.wait(7200, 10)
    assert world.ca.orders == []
    told = world.told()
    assert "cannot use budget.json: No space left on device" in told[0] + told[1]
    assert len(told) < 20
    world.in_thread = maybeDeferred
    world.hours(24)
    assert len(world.ca.issued) == 1


def _full() -> None:
    raise OSError(28, "No space left on device", "budget.json")


def test_an_accounts_key_that_is_damaged_is_told(world: World) -> None:
    world.start()
    world.wait(5)
    world.service.stopService()
    (path,) = (world.directory / "accounts").iterdir()
    path.write_text("oops")
    world.wanted["b.example"] = ("b.example",)
    world.start()
    world.wait(5)
    assert "remove it to get a new account" in "".join(world.told())


def test_a_mistake_of_ours_ends_an_attempt_and_nothing_else(world: World) -> None:
    world.responder.start_responding = lambda *_: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    world.start()
    world.wait(5)
    assert "a mistake in rproxy, see its log" in "".join(world.told())
    del world.responder.start_responding  # type: ignore[method-assign]
    world.hours(1)
    assert len(world.ca.issued) == 1


def test_a_mistake_while_looking_does_not_stop_the_clock(world: World) -> None:
    service = world.start()
    world.wait(5)
    good = service._begin_what_is_due
    service._begin_what_is_due = lambda: 1 / 0
    world.wait(3)
    service._begin_what_is_due = good
    world.hours(24 * 62)
    assert len(world.ca.issued) == 2


def test_a_stop_in_the_middle_leaves_nothing_behind(world: World) -> None:
    world.ca.pending_looks = 99
    service = world.start()
    world.wait(2)
    assert world.responder.began
    assert not world.responder.ended
    service.stopService()
    assert world.responder.ended == world.responder.began
    assert world.clock.getDelayedCalls() == []
    assert world.told() == []


def test_a_stop_while_an_authority_is_asked_leaves_nothing_behind(world: World) -> None:
    world.ca.window = (START + DAY, START + 2 * DAY)
    world.start()
    world.wait(5)
    held: list[Deferred[Any]] = []
    world.service._desks[0].client = None
    world.in_thread = lambda *call: held.append(Deferred()) or held[-1]  # type: ignore[func-returns-value]
    world.hours(7)
    assert held
    assert not held[0].called
    world.service.stopService()
    assert held[0].called
    assert world.clock.getDelayedCalls() == []


def test_a_certificate_is_on_disk_before_it_is_told(world: World) -> None:
    path = world.directory / "certificates" / "a.example.pem"

    class Watching(list[str]):
        def append(self, label: str) -> None:
            super().append(f"{label} {path.exists()}")

    world.changed = Watching()
    world.start()
    world.wait(5)
    assert world.changed == ["a.example True"]


def test_the_service_says_in_words_what_has_happened(world: World) -> None:
    world.ca.instead["order"] = [problem("rejectedIdentifier", 400, "never")]
    result = fired(world.make().issue_cert("nobody"))
    assert isinstance(result.value, AcmeError)
    assert result.value.kind is Kind.OURS
