"""What is kept of a request, and until when."""

from __future__ import annotations

from rproxy.upstream.http2_again import MOST_KEPT, MOST_MOVES, Kept, Unserved


def test_what_was_sent_is_kept_in_its_order() -> None:
    kept = Kept()
    for piece in (b"one", b"two"):
        kept.add(piece)
    assert kept.take() == [b"one", b"two"]


def test_of_no_body_nothing_is_kept_but_that_there_is_none() -> None:
    assert Kept().take() == []


def test_a_body_is_kept_whole_or_not_at_all() -> None:
    kept = Kept()
    kept.add(bytes(MOST_KEPT))
    assert kept.take() == [bytes(MOST_KEPT)]
    kept.add(b"x")
    assert kept.take() is None
    kept.add(b"y")
    assert kept.take() is None


def test_it_is_not_given_for_ever() -> None:
    kept = Kept()
    assert [kept.take() for _ in range(MOST_MOVES + 1)] == [[]] * MOST_MOVES + [None]


def test_what_is_dropped_is_gone() -> None:
    kept = Kept()
    kept.add(b"one")
    kept.drop()
    assert kept.take() is None


def test_nothing_of_an_unserved_request_was_done() -> None:
    assert Unserved("").other_peer
