"""Somebody who waits for a connection: waits no more once that is said, whoever says it."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from rproxy.errors import PeerUnreachable, Refusal
from rproxy.policy.forwarding import Memory
from rproxy.upstream.asking import Asking, HttpClient, Pool, Waiting
from rproxy.upstream.http_client import HttpPeer
from rproxy.wire.message import Fields, bare_request


class Waiter:
    """What is told to whoever waits."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.waiting = Waiting(self.told.append, self.told.append)


def place() -> HttpClient:
    return HttpClient(HttpPeer("p", authority=b"p"), Memory())


def test_whoever_waits_is_not_over_until_it_is_cancelled() -> None:
    waiting = Waiter().waiting
    assert not waiting.over
    waiting.cancel()
    assert waiting.over


def test_who_cancels_is_told_nothing() -> None:
    waiter, clock = Waiter(), Clock()
    waiter.waiting.timer = clock.callLater(5, waiter.waiting.failed, PeerUnreachable("late"))
    waiter.waiting.cancel()
    assert (clock.getDelayedCalls(), waiter.waiting.timer) == ([], None)
    clock.advance(10)
    assert waiter.told == []


def test_to_cancel_twice_is_to_cancel() -> None:
    waiter, clock = Waiter(), Clock()
    waiter.waiting.timer = clock.callLater(5, waiter.told.append, "late")
    waiter.waiting.cancel()
    waiter.waiting.cancel()
    assert waiter.waiting.over
    assert clock.getDelayedCalls() == []


def test_a_timer_that_has_called_is_no_harm() -> None:
    """As when a search takes too long: what is called then cancels."""
    waiter, clock = Waiter(), Clock()
    refusal = PeerUnreachable("late")

    def late() -> None:
        waiter.waiting.cancel()
        waiter.waiting.failed(refusal)

    waiter.waiting.timer = clock.callLater(5, late)
    clock.advance(5)
    assert (waiter.told, waiter.waiting.over) == ([refusal], True)


def test_a_place_and_a_refusal_go_to_different_ears() -> None:
    places: list[HttpClient] = []
    refusals: list[Refusal] = []
    waiting = Waiting(places.append, refusals.append)
    one, refusal = place(), PeerUnreachable("no")
    waiting.ready(one)
    waiting.failed(refusal)
    assert (places, refusals) == ([one], [refusal])


def test_what_every_asker_may_leave_out_does_nothing() -> None:
    asking = Asking()
    asking.piece(b"x")
    asking.response_end(None)
    asking.flush()
    asking.broken(PeerUnreachable("no"), True)
    asking.upstream_full()
    asking.upstream_ready()


def test_what_every_client_and_pool_has_to_have_is_missed_where_it_is_not() -> None:
    client, request = place(), bare_request(b"GET", b"/")
    for call in (
        lambda: client.can_tunnel(request),
        lambda: client.ask(Asking(), request, b"/", Fields([]), False, False),
        lambda: client.send_piece(b"x"),
        lambda: client.send_end(None),
        lambda: client.body_left,
        lambda: client.skip(1),
        client.pause,
        client.resume,
        client.detach,
        client.close,
        Pool().take,
        Pool().forget,
        lambda: Pool().close_idle(0.0),
        lambda: Pool().protocol(Clock(), print),
        lambda: Pool().wait(Clock(), 1.0, print, print),
    ):
        with pytest.raises(NotImplementedError):
            call()  # type: ignore[operator]
