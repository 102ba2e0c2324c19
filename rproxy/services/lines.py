"""Where log lines go: batches that leave together, and files that can be opened again.

Under both journals, `access` (connections) and `requestlog` (requests). Lines do not go through
`twisted.logger`, which would cost a tenth of a short connection. A `Sink` takes bytes and may
not block for long.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from twisted.logger import Logger

from rproxy.errors import StartError

log: Final = Logger(__name__)

FLUSH_EVERY: Final = 0.1
"""Seconds that a line waits for company: a write for each costs more than the line."""
BATCH: Final = 500
"""Lines that do not wait any longer: about 64 KiB."""
MOST_WAITING: Final = 256 * 1024
"""Characters that do not wait any longer: the memory that lines of hostile clients may fill."""
MODE: Final = 0o640
"""Of new log files, less the umask: a group may read who visits, others may not."""

Sink = Callable[[bytes], object]


class LineBatch:
    """Lines on their way to one sink. `title` is its name in the events of `log`."""

    def __init__(self, reactor: Any, sink: Sink, title: str, log: Logger) -> None:
        self._reactor, self._sink, self._title, self._log = reactor, sink, title, log
        self._lines: list[str] = []
        self._size = 0
        self._timer: Any = None
        self._lost = 0

    def add(self, line: str) -> None:
        """Write a line, which ends with a line feed; it leaves with others, soon."""
        lines = self._lines
        lines.append(line)
        self._size += len(line)
        if len(lines) >= BATCH or self._size >= MOST_WAITING:
            self.flush()
        elif self._timer is None:
            self._timer = self._reactor.callLater(FLUSH_EVERY, self.flush)

    def flush(self) -> None:
        """Hand the waiting lines to the sink."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        lines, self._lines, self._size = self._lines, [], 0
        if not lines:
            return
        try:
            self._sink("".join(lines).encode("ascii", "backslashreplace"))
        except Exception as problem:  # a full disk must not cost a connection, nor a log line for each
            # What is no OSError comes from a program's own sink.
            why = problem.strerror if isinstance(problem, OSError) else repr(problem)
            if not self._lost:
                self._log.error("{title} cannot be written: {why}", title=self._title, why=why)
            self._lost += len(lines)
        else:
            if self._lost:
                self._log.info(
                    "{title} is written again; {n} lines are lost", title=self._title, n=self._lost
                )
            self._lost = 0


class LogFile:
    """A file that lines are added to. Raises `StartError` when it cannot be opened.

    `lines` is shared by everybody who writes there, so that a failing disk is reported once.
    """

    def __init__(self, reactor: Any, path: Path) -> None:
        self._path, self._torn = path, False
        try:
            self._number: int | None = _opened(path)
        except OSError as problem:
            raise StartError(f"access_log: {path} cannot be opened: {problem.strerror}")
        self.lines = LineBatch(reactor, self._write, f"the log file {path}", log)

    def reopen(self) -> None:
        """Go on in the file that has the name now: logrotate has moved ours. If there is none, stay."""
        self.lines.flush()
        try:
            new = _opened(self._path)
        except OSError as problem:
            log.error(
                "the log file {path} stays as it was: {why}", path=str(self._path), why=problem.strerror
            )
            return
        self._close()
        self._number, self._torn = new, False

    def close(self) -> None:
        """Write what is waiting and close. Lines that come later still find their way."""
        self.lines.flush()
        self._close()

    def _close(self) -> None:
        number, self._number = self._number, None
        if number is not None:
            os.close(number)

    def _write(self, lines: bytes) -> None:
        if self._number is not None:
            self._write_to(self._number, lines)
            return
        number = _opened(self._path)  # a request of before the reload: seldom, so each batch opens and closes
        try:
            self._write_to(number, lines)
        finally:
            os.close(number)

    def _write_to(self, number: int, lines: bytes) -> None:
        """All of it; after a failure in the middle of a line, the next write begins on a new one."""
        left = b"\n" + lines if self._torn else lines
        while left:
            written = os.write(number, left)
            self._torn, left = left[written - 1 : written] != b"\n", left[written:]


class LogFiles:
    """The open log files, one for each path; they outlive a reload."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._files: dict[Path, LogFile] = {}

    def at(self, path: Path) -> LogFile:
        """The file at this path, opened if it is not. Raises `StartError`."""
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = LogFile(self._reactor, path)
        return file

    def reopen(self) -> None:
        """Open every file again; for SIGUSR1."""
        for file in self._files.values():
            file.reopen()

    def keep(self, paths: Iterable[Path]) -> None:
        """Close every other file; after a reload, and at the end with no path at all."""
        kept = frozenset(paths)
        for path in self._files.keys() - kept:
            self._files.pop(path).close()


def to_descriptor(number: int) -> Sink:
    """A sink that writes to an open file descriptor."""

    def write(lines: bytes) -> None:
        while lines:
            lines = lines[os.write(number, lines) :]

    return write


def _opened(path: Path) -> int:
    """A descriptor that adds to the file; opening never waits, as it would for a pipe without a reader."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    number = os.open(path, flags, MODE)
    os.set_blocking(number, True)
    return number
