"""A listener's gate: asked once the client is known, before anything is spent on it; all is given back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.address import UNIXAddress

from rproxy.downstream import admission
from rproxy.downstream.peek import ProxyPolicy
from rproxy.errors import Banned, Denied, RateLimited, Refusal
from rproxy.interfaces import Lease, Ticket
from rproxy.wire.address import Address, Inet
from tests.downstream.test_peek import (
    CLIENT,
    HELLO,
    LOCAL,
    OPTIONAL,
    OTHER,
    PEER,
    REQUIRED,
    V1,
    V2,
    Place,
    alert,
)


class Counted(Ticket):
    """One of those that a gate has counted."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def give_back(self) -> None:
        self._gate.open -= 1


class Gate(admission.Gate):
    """Refuses some addresses, and some more once they would be counted."""

    def __init__(self, checked: dict[str, Refusal] = {}, counted: dict[str, Refusal] = {}) -> None:  # noqa: B006
        self._checked, self._counted = checked, counted
        self.calls: list[str] = []
        self.turned: list[tuple[Address, str]] = []
        self.open = 0

    def check(self, client: Address) -> None:
        self._note("check", client, self._checked)

    def count(self, client: Address, lease: Lease) -> None:
        self._note("count", client, self._counted)
        self.open += 1
        lease.add(Counted(self))

    def turned_away(self, client: Address, refusal: Refusal) -> None:
        self.turned.append((client, refusal.reason))

    def _note(self, what: str, client: Address, refused: dict[str, Refusal]) -> None:
        host = client.host if isinstance(client, Inet) else "unix"
        self.calls.append(f"{what} {host}")
        if host in refused:
            raise refused[host]


def guarded(gate: Gate, proxy: ProxyPolicy | None = None, **options: Any) -> Place:
    place = Place(proxy=proxy, **options)
    place.factory.options = replace(place.factory.options, gate=gate)
    return place


def test_a_client_is_checked_before_it_has_a_place_and_counted_after() -> None:
    gate = Gate()
    place = guarded(gate)
    talk = place.connect()
    assert gate.calls == ["check 127.0.0.1", "count 127.0.0.1"]
    assert gate.open == 1
    talk.send(HELLO)
    talk.leave()
    assert gate.open == 0
    place.assert_empty()


@pytest.mark.parametrize("refusal", [Banned("x"), Denied("x")])
def test_who_may_not_come_is_closed_at_once_and_costs_nothing(refusal: Refusal) -> None:
    gate = Gate({"127.0.0.1": refusal})
    place = guarded(gate)
    assert place.factory.buildProtocol(PEER) is None
    assert gate.turned == [(Inet("127.0.0.1", 40000), refusal.reason)]
    assert gate.calls == ["check 127.0.0.1"]
    assert place.journal.ends == []
    place.assert_empty()


def test_who_comes_too_often_gives_back_what_was_taken() -> None:
    place = guarded(gate := Gate(counted={"127.0.0.1": RateLimited("x", 1.0)}), per_ip=5)
    assert place.factory.buildProtocol(PEER) is None
    assert gate.turned[0][1] == "rate_limited"
    assert place.factory.buildProtocol(OTHER) is not None
    assert place.taken[0] == 1


def test_who_is_one_too_many_for_the_listener_loses_no_token() -> None:
    place = guarded(gate := Gate(), most=0)
    assert place.factory.buildProtocol(PEER) is None
    assert gate.calls == ["check 127.0.0.1"]
    assert gate.open == 0


@pytest.mark.parametrize("proxy", [OPTIONAL, REQUIRED])
@pytest.mark.parametrize("header", [V1, V2])
def test_behind_a_proxy_it_is_the_client_of_the_header(proxy: ProxyPolicy, header: bytes) -> None:
    gate = Gate({"127.0.0.1": Banned("x")})
    place = guarded(gate, proxy)
    talk = place.connect()
    assert gate.calls == []
    talk.send(header)
    assert gate.calls == [f"check {CLIENT.host}", f"count {CLIENT.host}"]
    assert gate.open == 1
    talk.leave()
    assert gate.open == 0


@pytest.mark.parametrize(
    ("refusal", "answer"), [(Banned("x"), b""), (Denied("x"), alert(49)), (RateLimited("x", 1.0), b"")]
)
def test_a_client_behind_a_proxy_is_refused_after_the_header_and_stands_in_the_log(
    refusal: Refusal, answer: bytes
) -> None:
    where = {CLIENT.host: refusal}
    gate = Gate(counted=where) if isinstance(refusal, RateLimited) else Gate(where)
    place = guarded(gate, REQUIRED)
    talk = place.connect()
    talk.send(V2 + HELLO)
    assert talk.read() == answer + b"<end>"
    assert place.journal.end.reason == refusal.reason
    assert place.journal.end.arrival.client == CLIENT
    assert gate.turned == []
    talk.leave()
    assert gate.open == 0
    place.assert_empty()


def test_a_header_without_addresses_means_the_proxy_itself() -> None:
    gate = Gate({"127.0.0.1": Banned("x")})
    place = guarded(gate, REQUIRED)
    place.connect().send(LOCAL)
    assert place.journal.end.reason == "banned"


def test_a_peer_that_might_send_a_header_and_does_not_is_checked_with_its_hello() -> None:
    gate = Gate({"127.0.0.1": Banned("x")})
    place = guarded(gate, OPTIONAL)
    place.connect().send(HELLO)
    assert place.journal.end.reason == "banned"


class Refusing:
    """A route that lets nobody in."""

    def buildProtocol(self, arrival: Any) -> Any:
        raise Denied("not here")


def test_a_route_that_refuses_on_a_clear_port_ends_the_connection() -> None:
    place = guarded(Gate(), route=Refusing(), clear=True)  # type: ignore[arg-type]
    talk = place.connect()
    assert place.journal.end.reason == "denied"
    talk.leave()
    place.assert_empty()


@pytest.mark.parametrize("header", [V1, V2])
@pytest.mark.parametrize("behind", [b"", b"SSH-2.0-x\r\n", HELLO])
def test_whoever_is_refused_there_behind_a_header_is_refused_once(header: bytes, behind: bytes) -> None:
    """Each line of the journal counts for a jail."""
    place = guarded(Gate(), REQUIRED, route=Refusing(), clear=True)  # type: ignore[arg-type]
    talk = place.connect().send(header + behind)
    assert place.journal.end.reason == "denied"
    assert talk.read() == b"<end>"
    talk.leave()
    assert len(place.journal.ends) == 1
    place.assert_empty()


def test_who_is_cut_off_for_a_reason_has_it_in_the_journal() -> None:
    place = guarded(Gate())
    talk = place.connect()
    talk.peek.abort("banned")
    place.loop.spin()
    assert place.journal.end.reason == "banned"
    place.assert_empty()


def test_a_route_is_told_why_its_client_is_cut_off() -> None:
    place = guarded(Gate())
    talk = place.connect().send(HELLO)
    told = list[str]()
    place.route.built[0].ends_as = told.append  # type: ignore[attr-defined]
    talk.peek.abort("banned")
    assert told == ["banned"]
    talk.peek.abort()
    assert told == ["banned"], "there is nothing to tell"


def test_the_client_s_address_is_told_once_it_is_known() -> None:
    place = guarded(Gate(), REQUIRED)
    assert place.factory.buildProtocol(PEER).client_host == ""
    talk = place.connect()
    assert talk.peek.client_host == ""
    talk.send(V2)
    assert talk.peek.client_host == CLIENT.host
    assert guarded(Gate()).connect().peek.client_host == "127.0.0.1"


def test_there_is_no_address_on_a_unix_socket() -> None:
    place = guarded(gate := Gate())
    talk = place.connect(UNIXAddress("/x"))
    assert talk.peek.client_host == ""
    assert gate.calls == ["check unix", "count unix"]
    talk.leave()
    place.assert_empty()
