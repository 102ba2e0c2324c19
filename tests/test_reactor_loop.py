"""The main loop of ProxyReactor beside Twisted's own: what is due is done, in time, whatever fails."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor

from rproxy.reactor import LONGEST, ProxyReactor
from tests.fakes import PATIENCE, LogLines
from tests.hands import fresh

WAYS = (ProxyReactor, EPollReactor)
TOO_LONG = 5 * PATIENCE
"""Seconds until a loop that is stuck is ended."""


@pytest.fixture(params=WAYS, ids=["ours", "Twisted's"])
def loop(request: Any) -> Iterator[Any]:
    yield from fresh(request.param)


@pytest.fixture
def ours() -> Iterator[Any]:
    yield from fresh(ProxyReactor)


@pytest.fixture
def twisted() -> Iterator[Any]:
    yield from fresh(EPollReactor)


def run(reactor: Any) -> float:
    """Run until somebody stops it: the seconds that took. One that is stuck is ended from outside."""
    stuck: list[bool] = []

    def end() -> None:
        stuck.append(True)
        reactor.crash()
        reactor.wakeUp()

    limit = threading.Timer(TOO_LONG, end)
    limit.start()
    began = time.monotonic()
    reactor.run(installSignalHandlers=False)
    took = time.monotonic() - began
    limit.cancel()
    limit.join()
    assert not stuck, "it did not end"
    return took


class Waits:
    """Stands for waiting: remembers how long, and lets things happen in between."""

    def __init__(self, reactor: Any, *happens: Callable[[], Any]) -> None:
        self.seconds: list[float] = []
        self._happens = [*happens, reactor.stop]
        self._turns: Any = reactor.watcher.turns
        reactor.watcher.turns = self._turn

    def _turn(self, poller: Any, number: int, wait: float, *rest: Any) -> None:
        self.seconds.append(wait)
        if self._happens:
            self._happens.pop(0)()


# -- timed calls


def test_calls_run_in_the_order_of_their_times_and_never_before(loop: Any) -> None:
    done: list[tuple[float, float]] = []

    def note(after: float) -> None:
        done.append((after, loop.seconds() - began))

    began = loop.seconds()
    for after in (0.03, 0.01, 0.05, 0.0, 0.02, 0.01):
        loop.callLater(after, note, after)
    loop.callLater(0.06, loop.stop)
    assert run(loop) < PATIENCE
    assert loop.seconds() - began >= 0.06
    assert [after for after, _ in done] == [0.0, 0.01, 0.01, 0.02, 0.03, 0.05]
    assert all(ran >= after for after, ran in done)


def test_a_call_that_makes_another_has_it_run_in_a_later_turn(loop: Any) -> None:
    calls: list[int] = []

    def again() -> None:
        calls.append(len(calls))
        loop.callLater(0 if len(calls) < 100 else 0.01, again if len(calls) < 101 else loop.stop)

    loop.callLater(0, again)
    assert run(loop) < PATIENCE
    assert calls == list(range(101))


def test_a_call_that_is_made_while_the_loop_is_quiet_runs_in_time(loop: Any) -> None:
    """By an event, which is no timed call."""
    one, other = socket.socketpair()
    times: list[float] = []

    class Reader:
        def fileno(self) -> int:
            return one.fileno()

        def logPrefix(self) -> str:
            return "a reader"

        def doRead(self) -> None:
            one.recv(9)
            times.append(loop.seconds())
            loop.callLater(0.02, lambda: (times.append(loop.seconds()), loop.stop()))

    with one, other:
        reader: Any = Reader()
        loop.addReader(reader)
        teller = threading.Timer(0.05, other.send, [b"x"])
        teller.start()
        assert run(loop) < PATIENCE
        teller.join()
        loop.removeReader(reader)
    assert 0.02 <= times[1] - times[0] < PATIENCE


@pytest.mark.parametrize(
    ("after", "change", "expected"),
    [
        (TOO_LONG, lambda call: call.reset(0.02), 0.02),
        (0.01, lambda call: call.reset(0.06), 0.06),
        (0.01, lambda call: call.delay(0.05), 0.06),
        (TOO_LONG, lambda call: call.delay(0.02 - TOO_LONG), 0.02),
    ],
)
@pytest.mark.parametrize("running", [False, True])
def test_a_call_that_is_put_off_or_forward_runs_at_its_new_time(
    loop: Any, after: float, change: Callable[[Any], None], expected: float, running: bool
) -> None:
    ran: list[float] = []
    began = loop.seconds()
    call = loop.callLater(after, lambda: (ran.append(loop.seconds()), loop.stop()))
    if running:
        loop.callLater(0.001, change, call)
    else:
        change(call)
    run(loop)
    assert len(ran) == 1
    assert expected - 1e-6 <= ran[0] - began < PATIENCE


def test_a_call_that_was_cancelled_does_not_run(loop: Any) -> None:
    wrong: list[int] = []
    first, second = loop.callLater(0.0, wrong.append, 1), loop.callLater(0.02, wrong.append, 2)
    first.cancel()
    loop.callLater(0.01, second.cancel)
    loop.callLater(0.05, loop.stop)
    run(loop)
    assert wrong == []


# -- calls from threads


def test_another_thread_wakes_the_loop_which_makes_the_call_itself(loop: Any) -> None:
    told: list[tuple[int, float]] = []

    def note() -> None:
        told.append((threading.get_ident(), time.monotonic()))
        loop.stop()

    teller = threading.Timer(0.05, lambda: (called.append(time.monotonic()), loop.callFromThread(note)))
    called: list[float] = []
    teller.start()
    run(loop)
    teller.join()
    ((ident, when),) = told
    assert ident == threading.get_ident()
    assert when - called[0] < PATIENCE


def test_calls_of_threads_run_in_order_and_those_that_they_make_too(loop: Any) -> None:
    order: list[int] = []
    for number in range(3):
        loop.callFromThread(lambda at=number: (order.append(at), loop.callFromThread(order.append, at + 3)))
    loop.callLater(0.02, loop.stop)
    run(loop)
    assert order == [0, 1, 2, 3, 4, 5]


def test_what_a_thread_calls_is_seen_by_a_loop_that_waits_for_nothing(ours: Any) -> None:
    """The queue is looked at before each wait, even when no call is due."""
    called: list[str] = []
    waits = Waits(ours, lambda: ours.threadCallQueue.append((called.append, ("x",), {})), lambda: None)
    run(ours)
    assert called == ["x"]
    assert waits.seconds[:3] == [LONGEST] * 3


# -- mistakes


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_call_that_raises_is_logged_and_the_others_run(loop: Any, kind: type[BaseException]) -> None:
    def mistake() -> None:
        raise kind("a mistake")

    ran: list[str] = []
    loop.callLater(0.0, mistake)
    loop.callLater(0.01, ran.append, "timed")
    loop.callFromThread(mistake)
    loop.callFromThread(ran.append, "threaded")
    loop.callLater(0.02, loop.stop)
    with LogLines() as lines:
        run(loop)
    assert ran == ["threaded", "timed"]
    assert [event["log_failure"].type for event in lines.events if "log_failure" in event] == [kind] * 2


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt, MemoryError])
def test_a_turn_that_raises_is_logged_and_the_loop_goes_on(ours: Any, kind: type[BaseException]) -> None:
    def mistake() -> None:
        raise kind("a mistake")

    waits = Waits(ours, mistake, mistake, lambda: None)
    with LogLines() as lines:
        run(ours)
    assert lines.texts("rproxy.reactor") == [
        *["Unexpected error in main loop"] * 2,
        "Main loop terminated.",
    ]
    assert [event["log_failure"].type for event in lines.events if "log_failure" in event] == [kind] * 2
    assert waits.seconds[:4] == [LONGEST] * 4


# -- the end


def test_stopping_runs_what_was_to_be_done_before_and_ends_the_loop(loop: Any) -> None:
    order: list[str] = []
    waiting: Deferred[None] = Deferred()

    def before() -> Deferred[None]:
        order.append("before")
        loop.callLater(0.02, lambda: (order.append("done"), waiting.callback(None)))
        return waiting

    loop.addSystemEventTrigger("before", "shutdown", before)
    loop.addSystemEventTrigger("during", "shutdown", order.append, "during")
    loop.addSystemEventTrigger("after", "shutdown", order.append, "after")
    loop.callWhenRunning(order.append, "running")
    loop.callLater(0.0, loop.stop)
    run(loop)
    assert order == ["running", "before", "done", "during", "after"]
    assert not loop.running


def test_a_thread_may_stop_it(loop: Any) -> None:
    teller = threading.Timer(0.03, loop.callFromThread, [loop.stop])
    teller.start()
    assert run(loop) < PATIENCE
    teller.join()


def test_what_holds_up_the_end_is_waited_for_as_anything_is(ours: Any) -> None:
    held: Deferred[None] = Deferred()
    ours.addSystemEventTrigger("before", "shutdown", lambda: held)
    ours.callLater(1000, print)
    waits = Waits(ours, ours.stop, lambda: None, lambda: None, lambda: held.callback(None))
    run(ours)
    assert len(waits.seconds) == 4
    assert all(999 < seconds <= 1000 for seconds in waits.seconds)


def test_what_holds_up_the_beginning_is_not_slept_for(ours: Any) -> None:
    """As in Twisted's loop."""
    held: Deferred[None] = Deferred()
    ours.addSystemEventTrigger("before", "startup", lambda: held)
    waits = Waits(ours, lambda: None, lambda: held.callback(None), lambda: None)
    run(ours)
    assert waits.seconds[:4] == [0.0, 0.0, LONGEST, LONGEST]


def test_a_crash_ends_it_at_once(loop: Any) -> None:
    order: list[str] = []
    loop.addSystemEventTrigger("during", "shutdown", order.append, "shutdown")
    loop.callLater(0.01, loop.crash)
    assert run(loop) < PATIENCE
    assert order == []
    assert not loop.running


# -- how long it waits


def test_with_nothing_to_do_it_waits_as_long_as_it_may(ours: Any) -> None:
    waits = Waits(ours, lambda: None, lambda: None)
    run(ours)
    assert waits.seconds[:3] == [LONGEST] * 3


def test_it_waits_for_the_next_call_and_no_longer(ours: Any) -> None:
    ours.callLater(1000, print)
    waits = Waits(ours, lambda: None, lambda: ours.callLater(50, print), lambda: None, lambda: None)
    run(ours)
    assert all(999 < seconds <= 1000 for seconds in waits.seconds[:2])
    assert all(49 < seconds <= 50 for seconds in waits.seconds[2:4])


def test_a_call_that_is_far_away_is_waited_for_in_pieces(ours: Any) -> None:
    ours.callLater(1_000_000, print)
    waits = Waits(ours, lambda: None, lambda: None)
    run(ours)
    assert waits.seconds[:3] == [LONGEST] * 3


def test_what_is_due_now_is_not_waited_for(ours: Any) -> None:
    waits = Waits(ours, lambda: ours.callLater(0, ours.callLater, 0, print), lambda: None)
    run(ours)
    assert (waits.seconds[0], waits.seconds[1]) == (LONGEST, 0.0)


# -- cancelled calls


def left(reactor: Any, look: Callable[[], Any], count: int, cancelled: int) -> tuple[int, int, int]:
    """The calls that are kept, the cancelled ones of them, and those that nobody cancelled."""
    calls = [reactor.callLater(1000 + number, print) for number in range(count)]
    look()
    for call in calls[:cancelled]:
        call.cancel()
    look()
    return len(reactor._pendingTimedCalls), reactor._cancellations, len(reactor.getDelayedCalls())


@pytest.mark.parametrize(
    ("count", "cancelled", "kept"),
    [
        (100, 51, 49),
        (101, 51, 50),
        (102, 51, 102),
        (103, 51, 103),
        (60, 50, 60),
        (60, 60, 0),
        (51, 51, 0),
        (300, 150, 300),
        (300, 151, 149),
        (20, 20, 20),
    ],
)
def test_cancelled_calls_are_dropped_when_they_are_many_and_half_of_all(
    ours: Any, twisted: Any, count: int, cancelled: int, kept: int
) -> None:
    """Or timers that are set and cancelled for each connection would be kept until they are due."""
    found = left(ours, ours.watcher._wait, count, cancelled)
    assert found == left(twisted, twisted.runUntilCurrent, count, cancelled)
    assert found == (kept, cancelled if kept == count else 0, count - cancelled)


def test_timers_that_are_set_and_cancelled_do_not_pile_up(ours: Any) -> None:
    most: list[int] = []

    def arm() -> None:
        most.append(len(ours._pendingTimedCalls) + len(ours._newTimedCalls))
        for call in [ours.callLater(1000, print) for _ in range(20)]:
            call.cancel()

    Waits(ours, *[arm] * 500)
    run(ours)
    assert max(most) < 200


def test_a_cancelled_call_is_dropped_when_it_would_have_been_due(loop: Any) -> None:
    kept: list[int] = []
    loop.callLater(0.0, loop.callLater(0.02, print).cancel)
    for after in (0.01, 0.04):
        loop.callLater(after, lambda: kept.append(loop._cancellations))
    loop.callLater(0.04, loop.stop)
    run(loop)
    assert kept == [1, 0]
