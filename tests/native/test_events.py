"""A turn of the event loop in Python and in Cython, with a real epoll object: each does what is said here."""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP
from typing import Any

import pytest

from tests.native.twins import Twins, outcome

MOST = 256
TICK = 0.001
"""Seconds of the kernel's clock for epoll_wait(2)."""


class Selectable:
    """One end of a socket pair; `read` is what it does when it is told to read."""

    def __init__(self, loop: Loop, read: Callable[[], Any] | None = None) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.loop, self.read, self.number = loop, read, self.ours.fileno()

    def doRead(self) -> Any:
        self.loop.calls.append(("read", self))
        return self.read() if self.read is not None else None

    def drain(self) -> None:
        """Read what is there, so that it is told of no more."""
        while outcome(self.ours.recv, 65536)[0] is bytes:
            pass

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


class Loop:
    """An epoll object with its selectables, and what they were told."""

    def __init__(self, turn: Callable[..., None]) -> None:
        self.poller, self._turn = select.epoll(), turn
        self.selectables: dict[int, Any] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.made: list[Selectable] = []
        self.serve: Callable[..., Any] = lambda *told: self.calls.append(("serve", *told))
        self.stray: Callable[..., Any] = lambda *told: self.calls.append(("stray", *told))
        self.readers: type = object
        self.read: Callable[[Any], Any] = lambda selectable: selectable.doRead()
        self.failed: Callable[..., Any] = lambda *told: self.calls.append(("failed", *told))

    def add(self, read: Callable[[], Any] | None = None, events: int = EPOLLIN) -> Selectable:
        """One that is waited for."""
        made = Selectable(self, read)
        self.made.append(made)
        self.watch(made, events)
        return made

    def watch(self, selectable: Selectable, events: int = EPOLLIN) -> None:
        self.selectables[selectable.number] = selectable
        self.poller.register(selectable.number, events)

    def ready(self, read: Callable[[], Any] | None = None) -> Selectable:
        """One that has something to read, too."""
        made = self.add(read)
        made.theirs.send(b"x")
        return made

    def gone(self, selectable: Selectable) -> None:
        """Close one as a transport does."""
        del self.selectables[selectable.number]
        selectable.close()

    def turn(self, timeout: float = 0.0) -> list[tuple[Any, ...]]:
        """One turn: what was called in it."""
        before = len(self.calls)
        number = self.poller.fileno()
        calls = self.read, self.serve, self.stray, self.failed
        self._turn(self.poller, number, timeout, self.selectables, self.readers, *calls)
        return self.calls[before:]

    def close(self) -> None:
        for each in self.made:
            each.close()
        self.poller.close()


@pytest.fixture(scope="module")
def events(twins_of: Callable[[str], Twins]) -> Twins:
    return twins_of("events")


@pytest.fixture(params=["python", "compiled"])
def loop(request: pytest.FixtureRequest, events: Twins) -> Iterator[Loop]:
    made = Loop(getattr(events, request.param).turn)
    yield made
    made.close()


# -- who is read here


def test_who_is_no_reader_is_served_also_when_it_can_only_be_read(loop: Loop) -> None:
    loop.readers = int
    one = loop.ready()
    assert loop.turn() == [("serve", one, one.number, EPOLLIN)]


# -- who is watched


@pytest.mark.parametrize("twin", ["python", "compiled"])
@pytest.mark.parametrize("event", [EPOLLIN, EPOLLOUT])
def test_who_is_watched_is_told_of(loop: Loop, events: Twins, twin: str, event: int) -> None:
    one = Selectable(loop)
    loop.made.append(one)
    mine, others = set[int](), set[int]()
    add = partial(getattr(events, twin).add, loop.poller, loop.poller.fileno())
    assert add(mine, others, loop.selectables, one.number, one, event, EPOLLIN | EPOLLOUT) is True
    assert (mine, others, loop.selectables) == ({one.number}, set(), {one.number: one})
    assert loop.turn() == ([] if event == EPOLLIN else [("serve", one, one.number, EPOLLOUT)])
    one.theirs.send(b"x")
    assert loop.turn() == [("read", one) if event == EPOLLIN else ("serve", one, one.number, EPOLLOUT)]
    assert outcome(add, set(), others, loop.selectables, one.number, one, event, 0) == (
        "raises",
        FileExistsError,
    )


@pytest.mark.parametrize("twin", ["python", "compiled"])
def test_a_file_cannot_be_watched(events: Twins, twin: str, tmp_path: Path) -> None:
    with select.epoll() as poller, (tmp_path / "file").open("w") as file:
        number = file.fileno()
        tables = set[int](), set[int](), dict[int, Any]()
        add = partial(getattr(events, twin).add, poller, poller.fileno(), *tables, number, file, EPOLLIN, 5)
        assert add() is False
        file.close()
        assert outcome(add) == ("raises", OSError)
        assert tables == (set(), set(), {})


@pytest.mark.parametrize("twin", ["python", "compiled"])
def test_a_closed_poller_watches_nobody(events: Twins, twin: str) -> None:
    poller = select.epoll()
    number = poller.fileno()
    poller.close()
    add = getattr(events, twin).add
    told, what = outcome(add, poller, number, set(), set(), {}, 0, "nobody", EPOLLIN, 5)
    assert told == "raises"
    assert what in (ValueError, OSError)


# -- what is told


def test_the_constants_are_the_same(events: Twins) -> None:
    for twin in events:
        assert (twin.MOST, twin.IN) == (MOST, EPOLLIN)


def test_nothing_to_do_is_nothing_called(loop: Loop) -> None:
    loop.add()
    assert loop.turn() == []


def test_who_can_be_read_is_read(loop: Loop) -> None:
    one, two = loop.ready(), loop.ready()
    loop.add()
    assert sorted(map(str, loop.turn())) == sorted(map(str, [("read", one), ("read", two)]))


@pytest.mark.parametrize("why", ["a reason", 0, False, "", [], ValueError("not raised")])
def test_a_reason_is_handed_on_with_who_gave_it(loop: Loop, why: Any) -> None:
    one = loop.ready(lambda: why)
    assert loop.turn() == [("read", one), ("failed", one, one.number, why, False)]


@pytest.mark.parametrize(
    "kind", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, OSError, MemoryError]
)
def test_what_reading_raises_is_handed_on_too(loop: Loop, kind: type[BaseException]) -> None:
    mistake, seen = kind("a mistake"), []

    def read() -> None:
        raise mistake

    loop.failed = lambda *told: seen.append((*told, sys.exc_info()[1]))
    one = loop.ready(read)
    loop.turn()
    assert seen == [(one, one.number, mistake, True, None)]
    traceback = mistake.__traceback__
    assert traceback is not None
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    assert traceback.tb_frame.f_code is read.__code__


def test_a_reader_that_cannot_be_told_has_failed(loop: Loop) -> None:
    class Mute(Selectable):
        doRead: Any = None

    mute = Mute(loop)
    loop.made.append(mute)
    loop.watch(mute)
    mute.theirs.send(b"x")
    ((called, who, number, why, raised),) = loop.turn()
    assert (called, who, number, type(why), raised) == ("failed", mute, mute.number, TypeError, True)


def test_what_is_no_reader_is_served_whatever_it_has(loop: Loop) -> None:
    """Its `doRead` is told by the caller, who looks closer."""
    one, loop.readers = loop.ready(), Selectable
    for stranger in (object(), type("Other", (), {"doRead": one.doRead})(), Selectable, "text"):
        loop.selectables[one.number] = stranger
        assert loop.turn() == [("serve", stranger, one.number, EPOLLIN)]


def test_every_other_event_is_served_with_its_number(loop: Loop) -> None:
    writable = loop.add(events=EPOLLOUT)
    both = loop.add(events=EPOLLIN | EPOLLOUT)
    both.theirs.send(b"x")
    left = loop.add()
    left.theirs.close()
    told = {call[1]: call for call in loop.turn()}
    assert told == {
        writable: ("serve", writable, writable.number, EPOLLOUT),
        both: ("serve", both, both.number, EPOLLIN | EPOLLOUT),
        left: ("serve", left, left.number, EPOLLIN | EPOLLHUP),
    }
    assert {type(call[3]) for call in told.values()} == {int}


def test_an_event_of_errors_is_told_as_an_unsigned_number(loop: Loop) -> None:
    reader, writer = os.pipe()
    loop.poller.register(writer, select.EPOLLET | EPOLLOUT | EPOLLRDHUP)
    loop.selectables[writer] = "a pipe"
    os.close(reader)
    assert loop.turn() == [("serve", "a pipe", writer, EPOLLOUT | EPOLLERR)]
    os.close(writer)


# -- strays, and those that an event before has closed


def test_a_descriptor_of_nobody_s_is_a_stray(loop: Loop) -> None:
    one = loop.ready()
    del loop.selectables[one.number]
    assert loop.turn() == [("stray", one.number)]
    loop.selectables[one.number] = None
    assert loop.turn() == [("stray", one.number)]


def test_a_copy_of_what_was_closed_is_a_stray(loop: Loop) -> None:
    one = loop.ready()
    with socket.socket(fileno=os.dup(one.number)):
        del loop.selectables[one.number]
        one.ours.close()
        assert loop.turn() == [("stray", one.number)]


def test_of_two_that_close_each_other_one_is_read(loop: Loop) -> None:
    one = loop.ready(lambda: loop.gone(two))
    two = loop.ready(lambda: loop.gone(one))
    assert len(loop.turn()) == 1
    assert len(loop.selectables) == 1


def test_of_two_that_forget_each_other_one_is_read_and_none_is_a_stray(loop: Loop) -> None:
    one = loop.ready(lambda: loop.selectables.pop(two.number, None) and None)
    two = loop.ready(lambda: loop.selectables.pop(one.number, None) and None)
    ((called, _),) = loop.turn()
    assert called == "read"
    assert [call for call, *_ in loop.turn()] in (["read", "stray"], ["stray", "read"])


def test_a_new_connection_with_the_number_of_a_closed_one_is_not_told_of_its_event(loop: Loop) -> None:
    pairs: dict[Selectable, Selectable] = {}
    renewed: list[Selectable] = []

    def replace(other: Callable[[], Selectable]) -> None:
        """Close the other one, and open what gets its number."""
        old = other()
        number = old.number
        loop.gone(old)
        while True:
            new = Selectable(loop)
            loop.made.append(new)
            if new.number == number:
                break
        loop.watch(new)
        new.theirs.send(b"x")
        renewed.append(new)

    one = loop.ready(lambda: replace(lambda: pairs[one]))
    two = loop.ready(lambda: replace(lambda: pairs[two]))
    pairs |= {one: two, two: one}
    (called,) = loop.turn()
    assert called in (("read", one), ("read", two))
    assert len(renewed) == 1
    one.read = two.read = None
    assert ("read", renewed[0]) in loop.turn()


def test_one_that_closes_itself_may_still_fail(loop: Loop) -> None:
    """Whoever is told can see that it is gone."""

    def read() -> str:
        loop.gone(one)
        return "gone"

    one = loop.ready(read)
    number = one.number
    assert loop.turn() == [("read", one), ("failed", one, number, "gone", False)]


def test_a_selectable_that_nobody_else_has_lives_until_it_was_told(loop: Loop) -> None:
    """The loop keeps it over the turn even if the one before has dropped it."""
    ended: list[str] = []

    class Lonely(Selectable):
        def __del__(self) -> None:
            ended.append("lonely")
            self.close()

    lonely = Lonely(loop)
    number = lonely.number
    loop.watch(lonely)
    lonely.theirs.send(b"x")
    del lonely
    order: list[int] = []

    def drop() -> None:
        loop.selectables.pop(number, None)
        order.append(len(ended))

    for _ in range(3):
        loop.ready(drop)
    loop.turn()
    loop.calls.clear()
    assert order == [0, 0, 0]
    assert ended == ["lonely"]


# -- mistakes


@pytest.mark.parametrize("which", ["serve", "stray", "failed"])
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_what_the_caller_s_functions_raise_is_the_caller_s(
    loop: Loop, which: str, kind: type[BaseException]
) -> None:
    def mistake(*told: Any) -> None:
        loop.calls.append(("mistake", which))
        raise kind("a mistake")

    setattr(loop, which, mistake)
    many = [loop.ready(lambda: "a reason") for _ in range(20)]
    if which == "serve":
        for each in many:
            loop.poller.modify(each.number, EPOLLIN | EPOLLOUT)
    elif which == "stray":
        loop.selectables.clear()
    counts = [sys.getrefcount(each) for each in many]
    for _ in range(3):
        with pytest.raises(kind, match="a mistake"):
            loop.turn()
    assert loop.calls.count(("mistake", which)) == 3
    loop.calls.clear()
    assert [sys.getrefcount(each) for each in many] == counts


def test_after_a_mistake_the_others_are_told_in_the_next_turn(loop: Loop) -> None:
    def mistake(*told: Any) -> None:
        raise ValueError("a mistake")

    loop.failed = mistake
    first, second = loop.ready(), loop.ready()
    first.read, second.read = (lambda: first.drain() or "x"), (lambda: second.drain() or "x")
    for _ in range(2):
        with pytest.raises(ValueError, match="a mistake"):
            loop.turn()
    assert {selectable for _, selectable in loop.calls} == {first, second}
    assert loop.turn() == []


def test_a_thousand_turns_keep_no_reference(loop: Loop) -> None:
    def mistake() -> None:
        raise ValueError("a mistake")

    loop.serve = loop.stray = loop.failed = lambda *told: None
    kinds = [None, lambda: "a reason", mistake]
    many = [loop.ready(kinds[number % 3]) for number in range(30)]
    for each in many[::5]:
        loop.poller.modify(each.number, EPOLLIN | EPOLLOUT)
    held = [*many, loop.selectables, loop.serve, loop.poller, None]
    counts = [sys.getrefcount(each) for each in held[:-1]]
    for _ in range(1000):
        loop.turn()
        loop.calls.clear()
    gc.collect()  # an exception and the frame it went through hold each other
    assert [sys.getrefcount(each) for each in held[:-1]] == counts


def test_a_descriptor_that_is_no_epoll_s_is_an_error(events: Twins) -> None:
    """Of the compiled one; Python's looks at the object."""
    with socket.socket() as other:
        for number, code in ((-1, errno.EBADF), (other.fileno(), errno.EINVAL)):
            with pytest.raises(OSError, match=r".") as caught:
                events.compiled.turn(None, number, 0.0, {}, object, None, None, None, None)
            assert caught.value.errno == code


@pytest.mark.parametrize(
    "wrong",
    [
        ("x", 0.0, {}, object),
        (0, "x", {}, object),
        (0, 0.0, [], object),
        (2**40, 0.0, {}, object),
        (0, 0.0, {}, 5),
    ],
)
def test_what_is_of_another_type_is_refused(events: Twins, wrong: tuple[Any, ...]) -> None:
    assert outcome(events.compiled.turn, None, *wrong, None, None, None, None)[1] in (
        TypeError,
        OverflowError,
    )


# -- many


@pytest.mark.parametrize("count", [MOST - 1, MOST, MOST + 1, 2 * MOST + 10])
def test_more_events_than_a_turn_takes_are_told_in_the_next(loop: Loop, count: int) -> None:
    many = [loop.ready() for _ in range(count)]
    for each in many:
        each.read = each.drain
    told: list[Any] = []
    for left in range(count, 0, -MOST):
        calls = loop.turn()
        assert len(calls) == min(MOST, left)
        told += calls
    assert {selectable for _, selectable in told} == set(many)
    assert loop.turn() == []


def test_whoever_is_always_ready_does_not_keep_others_from_being_told(loop: Loop) -> None:
    for _ in range(MOST + 50):
        loop.ready()
    told = {selectable for _ in range(3) for _, selectable in loop.turn()}
    assert len(told) == MOST + 50


# -- a turn within a turn


def test_reading_may_take_another_turn(loop: Loop) -> None:
    """As a nested wait does: everybody is told, by one of the two, and nobody who is gone."""
    depth: list[int] = []

    def read() -> None:
        depth.append(1)
        if len(depth) < 3:
            loop.turn()

    many = [loop.ready(read) for _ in range(20)]
    loop.turn()
    assert {selectable for _, selectable in loop.calls} == set(many)
    assert len(loop.calls) == 60


def test_a_turn_within_a_turn_that_closes_everybody_leaves_nothing_to_tell(loop: Loop) -> None:
    def read() -> None:
        if len(loop.calls) == 1:
            loop.turn()
            for each in list(loop.selectables.values()):
                loop.gone(each)

    for _ in range(20):
        loop.ready(read)
    loop.turn()
    assert len(loop.calls) == 1 + 20
    assert loop.turn() == []


# -- waiting


def elapsed(loop: Loop, timeout: float) -> float:
    began = time.monotonic()
    loop.turn(timeout)
    return time.monotonic() - began


def test_no_time_is_no_wait(loop: Loop) -> None:
    loop.add()
    assert min(elapsed(loop, 0.0) for _ in range(5)) < TICK
    assert min(elapsed(loop, -0.0) for _ in range(5)) < TICK


@pytest.mark.parametrize("timeout", [0.0000001, 0.0004, 0.001, 0.0011, 0.0204])
def test_no_turn_ends_before_its_time(loop: Loop, timeout: float) -> None:
    """Rounded up, or a timer that is due in half a millisecond makes the loop spin."""
    loop.add()
    took = [elapsed(loop, timeout) for _ in range(5)]
    assert min(took) >= timeout
    assert min(took) >= TICK / 2
    assert min(took) < timeout + 0.05


@pytest.mark.parametrize("timeout", [-1.0, -0.0004, 5.0, 86400.0, 100_000.0, 2147483.0])
def test_waiting_ends_when_there_is_something(loop: Loop, timeout: float) -> None:
    one = loop.add()
    teller = threading.Timer(0.05, lambda: one.theirs.send(b"x"))
    teller.start()
    took = elapsed(loop, timeout)
    teller.join()
    assert took >= 0.04
    assert loop.calls == [("read", one)]


@pytest.mark.parametrize("timeout", [1e10, 1e300, float("inf")])
def test_the_compiled_one_waits_as_long_as_it_can(events: Twins, timeout: float) -> None:
    """Python's does not take so much; Twisted asks for 2147483 seconds at most."""
    test_waiting_ends_when_there_is_something(loop := Loop(events.compiled.turn), timeout)
    loop.close()


def test_threads_run_while_it_waits(loop: Loop) -> None:
    """The interpreter's lock is free meanwhile."""
    counted, over = [0], threading.Event()

    def count() -> None:
        while not over.is_set():
            counted[0] += 1

    thread = threading.Thread(target=count)
    thread.start()
    before = counted[0]
    loop.turn(0.2)
    after = counted[0]
    over.set()
    thread.join()
    assert after - before > 1000


def test_threads_may_change_who_is_waited_for(loop: Loop) -> None:
    """What is in the table when the wait ends counts."""
    late = Selectable(loop)
    loop.made.append(late)

    def join() -> None:
        loop.watch(late)
        late.theirs.send(b"x")

    thread = threading.Timer(0.05, join)
    thread.start()
    assert loop.turn(5.0) == [("read", late)]
    thread.join()


# -- signals


@pytest.fixture
def alarm() -> Iterator[Callable[[Callable[[], Any]], None]]:
    """Calls something by a signal, in 50 ms."""
    before = signal.getsignal(signal.SIGUSR1)
    timers: list[threading.Timer] = []

    def set_off(call: Callable[[], Any]) -> None:
        signal.signal(signal.SIGUSR1, lambda number, frame: call())
        timers.append(
            threading.Timer(0.05, lambda: signal.pthread_kill(threading.main_thread().ident or 0, 10))
        )
        timers[-1].start()

    yield set_off
    for timer in timers:
        timer.join()
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_s_handler_runs_while_it_waits(loop: Loop, alarm: Callable[..., None]) -> None:
    """And what it does is seen, in this turn or the next."""
    one, handled = loop.add(), []
    alarm(lambda: handled.append(one.theirs.send(b"x")))
    took = elapsed(loop, 5.0)
    assert handled == [1]
    assert 0.04 < took < 1.0
    assert loop.calls or loop.turn() == [("read", one)]


def test_a_signal_that_changes_nothing_is_no_error(loop: Loop, alarm: Callable[..., None]) -> None:
    handled: list[int] = []
    alarm(lambda: handled.append(1))
    assert elapsed(loop, 0.2) < 1.0
    assert handled == [1]
    assert loop.calls == []


def test_what_a_signal_s_handler_raises_ends_the_wait(loop: Loop, alarm: Callable[..., None]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    alarm(interrupt)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        loop.turn(5.0)
    assert time.monotonic() - began < 1.0


def test_a_signal_s_handler_may_take_a_turn(loop: Loop, alarm: Callable[..., None]) -> None:
    one = loop.add()
    one.read = one.drain

    def within() -> None:
        one.theirs.send(b"x")
        loop.turn()
        one.theirs.send(b"y")

    alarm(within)
    loop.turn(5.0)
    loop.turn()
    assert loop.calls == [("read", one)] * 2
