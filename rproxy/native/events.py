"""A turn of the event loop: wait, then call whoever has something to do. Called by `reactor`; see `native`.

Measured by `h1` in bench/: the list of pairs that the select module makes for each turn, and one look
at the type of each.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from select import EPOLLIN
from typing import Any, Final

from twisted.python import runtime

MOST: Final = 256
"""Events of a turn: they are kept until all of them were looked at."""
IN: Final[int] = EPOLLIN


now: Final[Callable[[], float]] = runtime.seconds
"""The time, in seconds since 1970."""


def add(
    poller: Any,
    number: int,
    mine: set[int],
    others: set[int],
    selectables: dict[int, Any],
    descriptor: int,
    selectable: Any,
    event: int,
    both: int,
) -> bool:
    """Watch a descriptor for `event`, too; False for a file that epoll cannot watch.

    `poller` and `number` are as for `turn`. `mine` are the descriptors that are watched for this event,
    `others` those for the other one; `both` is the two events. Raises `OSError` for other reasons.
    """
    if descriptor in mine:
        return True
    if descriptor in others:
        poller.modify(descriptor, both)
    else:
        try:
            poller.register(descriptor, event)
        except PermissionError:
            return False
    mine.add(descriptor)
    selectables[descriptor] = selectable
    return True


def remove(
    poller: Any,
    number: int,
    mine: set[int],
    others: set[int],
    selectables: dict[int, Any],
    descriptor: int,
    other: int,
) -> bool:
    """Watch a descriptor for this event no more, only for the `other` one, if at all.

    False for one that is not watched. Otherwise as `add`.
    """
    if descriptor not in mine:
        return descriptor in others
    if descriptor in others:
        poller.modify(descriptor, other)
    else:
        del selectables[descriptor]
        poller.unregister(descriptor)
    mine.remove(descriptor)
    return True


def forget(one: set[int], other: set[int], selectables: dict[int, Any], descriptor: int) -> None:
    """Take a descriptor out of the tables; it is about to be closed, which takes it out of epoll."""
    one.discard(descriptor)
    other.discard(descriptor)
    selectables.pop(descriptor, None)


def turn(
    poller: Any,
    number: int,
    timeout: float,
    selectables: dict[int, Any],
    readers: type,
    read: Callable[[Any], Any],
    serve: Callable[[Any, int, int], object],
    stray: Callable[[int], object],
    failed: Callable[[Any, int, Any, bool], object],
) -> None:
    """Wait for events, at most `timeout` seconds (below 0: for ever), and deliver them.

    `poller` is an epoll object, `number` its descriptor. One of the `readers` that can only be read is read
    here, by `read(selectable)`, and `failed(selectable, descriptor, why, raised)` called with what that
    gives, unless it is None, or raises. Any other event is for `serve(selectable, descriptor, event)`. What
    an event before has closed is gone, and its descriptor may be a new connection's by now: such events are
    dropped. `stray(descriptor)` is called for a descriptor of nobody's.
    """
    try:
        events = poller.poll(timeout if timeout >= 0 else -1, MOST)
    except OSError as problem:
        if problem.errno == errno.EINTR:
            return
        raise
    due = [(selectables.get(descriptor), descriptor, event) for descriptor, event in events]
    for selectable, descriptor, event in due:
        if selectable is None:
            stray(descriptor)
        elif selectables.get(descriptor) is not selectable:
            continue
        elif event == IN and isinstance(selectable, readers):
            _read(selectable, descriptor, read, failed)
        else:
            serve(selectable, descriptor, event)


def _read(
    selectable: Any,
    descriptor: int,
    read: Callable[[Any], Any],
    failed: Callable[[Any, int, Any, bool], object],
) -> None:
    raised = False
    try:
        why = read(selectable)
    except BaseException as mistake:
        why, raised = mistake, True
    if why is not None:
        failed(selectable, descriptor, why, raised)
