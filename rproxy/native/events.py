"""A turn of the event loop: wait, then call whoever has something to do. Called by `reactor`; see `native`.

Measured by `h1` in bench/: the list of pairs that the select module makes for each turn, and one look
at the type of each.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from select import EPOLLIN
from typing import Any, Final

MOST: Final = 256
"""Events of a turn: they are kept until all of them were looked at."""
IN: Final[int] = EPOLLIN


def watch(poller: Any, number: int, descriptor: int, event: int) -> bool:
    """Begin to watch a descriptor for `event`; False for a file that epoll cannot watch.

    `poller` and `number` are as for `turn`. Raises `OSError` for other reasons.
    """
    try:
        poller.register(descriptor, event)
    except PermissionError:
        return False
    return True


def turn(
    poller: Any,
    number: int,
    timeout: float,
    selectables: dict[int, Any],
    readers: type,
    serve: Callable[[Any, int, int], object],
    stray: Callable[[int], object],
    failed: Callable[[Any, int, Any, bool], object],
) -> None:
    """Wait for events, at most `timeout` seconds (below 0: for ever), and deliver them.

    `poller` is an epoll object, `number` its descriptor. One of the `readers` that can only be read is read
    here, and `failed(selectable, descriptor, why, raised)` called with what that gives, unless it is None, or
    raises. Any other event is for `serve(selectable, descriptor, event)`. What an event before has closed is
    gone, and its descriptor may be a new connection's by now: such events are dropped. `stray(descriptor)` is
    called for a descriptor of nobody's.
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
            _read(selectable, descriptor, failed)
        else:
            serve(selectable, descriptor, event)


def _read(selectable: Any, descriptor: int, failed: Callable[[Any, int, Any, bool], object]) -> None:
    raised = False
    try:
        why = selectable.doRead()
    except BaseException as mistake:
        why, raised = mistake, True
    if why is not None:
        failed(selectable, descriptor, why, raised)
