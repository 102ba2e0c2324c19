"""Whoever writes into a stream is held back while it is full, also one that comes late."""

from __future__ import annotations

from rproxy.upstream.http2_consumer import Consumer


class Producer:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")


def test_a_producer_is_paused_and_resumed() -> None:
    consumer, producer = Consumer(), Producer()
    consumer.registerProducer(producer, True)
    assert producer.calls == []
    consumer.full()
    consumer.ready()
    assert producer.calls == ["pause", "resume"]


def test_one_that_comes_while_it_is_full_waits_from_the_start() -> None:
    consumer, producer = Consumer(), Producer()
    consumer.full()
    consumer.registerProducer(producer, True)
    assert producer.calls == ["pause"]
    consumer.ready()
    assert producer.calls == ["pause", "resume"]


def test_one_that_comes_after_it_was_full_does_not_wait() -> None:
    consumer, producer = Consumer(), Producer()
    consumer.full()
    consumer.ready()
    consumer.registerProducer(producer, True)
    assert producer.calls == []


def test_one_that_has_gone_is_told_nothing() -> None:
    consumer, producer = Consumer(), Producer()
    consumer.registerProducer(producer, True)
    consumer.unregisterProducer()
    consumer.full()
    consumer.ready()
    assert producer.calls == []
