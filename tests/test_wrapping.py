"""What a transport around a transport passes on: addresses, options, and the pauses of a producer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.testing import StringTransport

from rproxy.wrapping import Gate, Wrapping


class Producer:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


class Below(StringTransport):
    """The transport below, with the options of TCP."""

    def __init__(self) -> None:
        super().__init__()
        self.options: dict[str, bool] = {"delay": False, "alive": False}

    def getHandle(self) -> str:
        return "the socket"

    def getTcpNoDelay(self) -> bool:
        return self.options["delay"]

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.options["delay"] = enabled

    def getTcpKeepAlive(self) -> bool:
        return self.options["alive"]

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.options["alive"] = enabled


class Around(Wrapping):
    """Wraps, and remembers that it was closed and that its producer went."""

    def __init__(self, below: Any) -> None:
        super().__init__()
        self.transport = below
        self.calls: list[str] = []

    def loseConnection(self) -> None:
        self.calls.append("lose")

    def _producer_gone(self) -> None:
        self.calls.append("gone")


@pytest.fixture
def below() -> Below:
    return Below()


@pytest.fixture
def around(below: Below) -> Iterator[Around]:
    made = Around(below)
    yield made
    made.unregisterProducer()  # one that is pulled would go on


def test_it_is_where_the_transport_below_is(around: Around, below: Below) -> None:
    assert (around.getHost(), around.getPeer()) == (below.getHost(), below.getPeer())
    assert around.getHandle() == "the socket"


def test_options_are_those_of_the_transport_below(around: Around, below: Below) -> None:
    around.setTcpNoDelay(True)
    assert (around.getTcpNoDelay(), around.getTcpKeepAlive()) == (True, False)
    around.setTcpKeepAlive(True)
    assert below.options == {"delay": True, "alive": True}
    assert around.getTcpKeepAlive()


def test_pausing_it_pauses_the_transport_below(around: Around, below: Below) -> None:
    around.pauseProducing()
    assert below.producerState == "paused"
    around.resumeProducing()
    assert below.producerState == "producing"


def test_a_producer_is_paused_once_and_resumed_once_whoever_asks(around: Around, below: Any) -> None:
    producer = Producer()
    around.registerProducer(producer, True)
    for _ in range(2):
        below.producer.pauseProducing()
    for _ in range(2):
        below.producer.resumeProducing()
    assert producer.calls == ["pause", "resume"]
    below.producer.stopProducing()
    assert producer.calls == ["pause", "resume", "stop"]


def test_a_gate_is_open_at_first() -> None:
    producer = Producer()
    Gate(producer).resumeProducing()
    assert producer.calls == []


def test_who_comes_too_late_to_produce_is_told_so(around: Around, below: Below) -> None:
    producer = Producer()
    around._lost = True
    around.registerProducer(producer, True)
    assert (producer.calls, below.producer) == (["stop"], None)


def test_without_its_producer_it_may_go_on(around: Around, below: Below) -> None:
    around.unregisterProducer()
    assert around.calls == [], "there was none"
    around.registerProducer(Producer(), True)
    around.unregisterProducer()
    around.unregisterProducer()
    assert (around.calls, below.producer) == (["gone"], None)


def test_a_producer_that_is_dropped_is_paused_for_good(around: Around, below: Any) -> None:
    producer = Producer()
    around.registerProducer(producer, True)
    around._drop_producer()
    around._drop_producer()
    assert (producer.calls, below.producer, around.calls) == (["pause"], None, [])


@pytest.mark.parametrize("way", ["unregisterProducer", "_drop_producer"])
def test_one_that_is_pulled_is_pulled_no_more(around: Around, below: Any, way: str) -> None:
    around.registerProducer(Producer(), False)
    pulled = around._pulled
    getattr(around, way)()
    assert (pulled._finished, around._pulled, below.producer) == (True, None, None)


def test_stopping_either_way_closes(around: Around, below: Below) -> None:
    around.registerProducer(Producer(), True)
    around.stopConsuming()
    assert (around.calls, below.producer) == (["gone", "lose"], None)
    around.stopProducing()
    assert around.calls == ["gone", "lose", "lose"]
