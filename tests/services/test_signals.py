"""Signals reach the reactor's own turn, and are given back."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rproxy.services.signals import Signals

ALL = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


class Reactor:
    """Keeps what is to be called in its turn."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []

    def callFromThread(self, call: Callable[[], object]) -> None:
        self.calls.append(call)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[list[Any]]:
    """What is installed before, and again after."""
    before = [signal.signal(number, lambda *_: None) for number in ALL]
    installed = [signal.getsignal(number) for number in ALL]
    yield installed
    assert [signal.getsignal(number) for number in ALL] == installed
    for number, handler in zip(ALL, before, strict=True):
        signal.signal(number, handler)


def test_a_hangup_is_called_in_the_reactors_turn() -> None:
    reactor, called = Reactor(), list[str]()
    signals = Signals(reactor, lambda: called.append("hangup"))
    signals.startService()
    os.kill(os.getpid(), signal.SIGHUP)
    assert called == []
    (call,) = reactor.calls
    call()
    assert called == ["hangup"]
    signals.stopService()


def test_before_the_stop_only_the_hangup_is_taken(handlers: list[Any]) -> None:
    signals = Signals(Reactor(), lambda: None)
    signals.startService()
    assert [signal.getsignal(number) == before for number, before in zip(ALL, handlers, strict=True)] == [
        False,
        True,
        True,
    ]
    signals.stopService()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_once_it_stops_the_next_request_to_stop_hurries(number: int) -> None:
    reactor, called = Reactor(), list[str]()
    signals = Signals(reactor, lambda: None)
    signals.startService()
    signals.hurry_on_second_stop(lambda: called.append("hurry"))
    os.kill(os.getpid(), number)
    reactor.calls[0]()
    assert called == ["hurry"]
    signals.stopService()


def test_taking_one_twice_still_gives_the_first_handler_back() -> None:
    signals = Signals(Reactor(), lambda: None)
    signals.startService()
    signals.hurry_on_second_stop(lambda: None)
    signals.hurry_on_second_stop(lambda: None)
    signals.stopService()


def test_outside_the_main_thread_it_does_nothing() -> None:
    signals, problems = Signals(Reactor(), lambda: None), list[Exception]()

    def run() -> None:
        try:
            signals.startService()
            signals.hurry_on_second_stop(lambda: None)
            signals.stopService()
        except Exception as problem:
            problems.append(problem)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(5)
    assert problems == []
