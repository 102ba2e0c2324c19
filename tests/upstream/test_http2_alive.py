"""When a peer that says nothing is asked whether it is there, and when it is given up."""

from __future__ import annotations

from rproxy.upstream.http2_alive import MOST_PINGS, PING_AFTER, PING_AGAIN, PONG_WITHIN, Silence


def test_it_is_asked_once_it_has_been_silent_for_long() -> None:
    silence = Silence(0.0)
    assert not silence.wants_ping(PING_AFTER - 1)
    assert silence.wants_ping(PING_AFTER)
    assert not silence.wants_ping(PING_AFTER + 1)


def test_what_it_says_begins_the_time_anew() -> None:
    silence = Silence(0.0)
    silence.heard(15.0)
    assert not silence.wants_ping(PING_AFTER + 14)
    assert silence.wants_ping(PING_AFTER + 15)


def test_what_it_is_asked_after_a_pause_has_time_too() -> None:
    silence = Silence(0.0)
    silence.asked(100.0)
    assert not silence.wants_ping(100.0 + PING_AFTER - 1)
    silence.asked(110.0)  # more requests are no reason to wait longer
    assert silence.wants_ping(100.0 + PING_AFTER)


def test_an_answer_is_waited_for() -> None:
    silence = Silence(0.0)
    assert silence.wants_ping(100.0)
    assert not silence.is_final(100.0 + PONG_WITHIN - 1)
    assert silence.is_final(100.0 + PONG_WITHIN)
    silence.heard(105.0)
    assert not silence.is_final(100.0 + PONG_WITHIN)


def test_nobody_who_was_not_asked_is_given_up() -> None:
    assert not Silence(0.0).is_final(1e6)


def test_an_answer_alone_does_not_lead_to_another_question_soon() -> None:
    silence = Silence(0.0)
    assert silence.wants_ping(20.0)
    silence.heard(21.0)
    assert not silence.wants_ping(21.0 + PING_AGAIN - 1)
    assert silence.wants_ping(21.0 + PING_AGAIN)


def test_news_do() -> None:
    silence = Silence(0.0)
    assert silence.wants_ping(20.0)
    silence.heard(21.0)
    silence.has_news()
    assert silence.wants_ping(41.0)


def test_another_request_leads_to_one_more_question_but_not_to_many() -> None:
    silence, now = Silence(0.0), 20.0
    assert silence.wants_ping(now)
    asked = 1
    for _ in range(5):
        silence.heard(now + 1)
        silence.asked(now + 2)
        now += 30
        asked += silence.wants_ping(now)
    assert asked == MOST_PINGS
