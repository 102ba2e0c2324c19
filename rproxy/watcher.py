"""What is asked of the reactor for every connection and every request, by calls that cost next to nothing.

A reactor is a class that no compiled class can inherit from, and a look into one takes as long as ten calls
of a compiled method. So ours has a `watcher` for that (see `reactor`), and any other one gets a `Foreign`.
"""

from __future__ import annotations

from typing import Any


class Watcher:
    """The clock, and who is told of a descriptor: by its number and its owner."""

    def seconds(self) -> float:
        """As `IReactorTime.seconds`."""
        raise NotImplementedError

    def add_reader(self, number: int, reader: Any) -> bool:
        """As `IReactorFDSet.addReader`; False where epoll cannot watch it."""
        raise NotImplementedError

    def add_writer(self, number: int, writer: Any) -> bool:
        """As `IReactorFDSet.addWriter`; False where epoll cannot watch it."""
        raise NotImplementedError

    def remove_reader(self, number: int, reader: Any) -> bool:
        """As `IReactorFDSet.removeReader`; False where epoll does not watch it."""
        raise NotImplementedError

    def remove_writer(self, number: int, writer: Any) -> bool:
        """As `IReactorFDSet.removeWriter`; False where epoll does not watch it."""
        raise NotImplementedError

    def forget(self, number: int, selectable: Any) -> None:
        """Both are removed, and the descriptor, of which there is no copy, is about to be closed."""
        raise NotImplementedError


class Foreign(Watcher):
    """Of any reactor, or of a clock."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def seconds(self) -> float:
        """See `Watcher`; so for the others."""
        seconds: float = self._reactor.seconds()
        return seconds

    def add_reader(self, number: int, reader: Any) -> bool:  # noqa: D102
        self._reactor.addReader(reader)
        return True

    def add_writer(self, number: int, writer: Any) -> bool:  # noqa: D102
        self._reactor.addWriter(writer)
        return True

    def remove_reader(self, number: int, reader: Any) -> bool:  # noqa: D102
        self._reactor.removeReader(reader)
        return True

    def remove_writer(self, number: int, writer: Any) -> bool:  # noqa: D102
        self._reactor.removeWriter(writer)
        return True

    def forget(self, number: int, selectable: Any) -> None:  # noqa: D102
        self._reactor.removeReader(selectable)
        self._reactor.removeWriter(selectable)


def watcher_of(reactor: Any) -> Watcher:
    """The one that a reactor has; or one for it, or for a `task.Clock`."""
    watcher = getattr(reactor, "watcher", None)
    return watcher if isinstance(watcher, Watcher) else Foreign(reactor)
