"""Notices that the config file has changed. Owned by `assemble`, which says what a change means.

The directory is watched, not the file: editors and Kubernetes replace a file by renaming, also
through symlinks. inotify only hastens a look that is taken every few seconds anyway, since it
is silent on network and bind mounts. A look is one `stat`; the content is read when that differs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.logger import Logger
from twisted.python.filepath import FilePath

log = Logger()

LOOK_EVERY = 2.0
"""Seconds between two looks where inotify does not fire."""
SETTLE = 0.2
"""Seconds to wait after a sign of change: an editor writes in several steps."""

PATIENCE = 1.0
"""Seconds after the first sign at which it is looked whatever comes: a busy neighbour must not put it off."""
SIGNS = 0x004 | 0x008 | 0x080 | 0x100 | 0x200
"""inotify(7): ATTRIB, CLOSE_WRITE, MOVED_TO, CREATE, DELETE; not MODIFY, which a log beside it fires."""

Fingerprint = tuple[int, ...]


class Watch(Service):
    """Calls `changed` when the file's content may have changed, never twice for one state of the file.

    `seen` is its fingerprint from before it was read: what is saved meanwhile must not be missed.
    """

    name = "config watch"

    def __init__(
        self, reactor: Any, path: Path, changed: Callable[[], None], seen: Fingerprint | None = None
    ) -> None:
        self._reactor, self._path, self._changed = reactor, path, changed
        self._seen = fingerprint(path) if seen is None else seen
        self._timer: Any = None
        self._latest = 0.0
        self._notifier: Any = None

    def startService(self) -> None:
        """Twisted's call: begin to look."""
        super().startService()
        self._look_in(LOOK_EVERY)
        self._notifier = self._inotify()

    def stopService(self) -> None:
        """Twisted's call: look no more."""
        super().stopService()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._notifier is not None:
            self._notifier.loseConnection()
            self._notifier = None

    def noted(self) -> None:
        """The file has been read just now for another reason (a signal)."""
        self._seen = fingerprint(self._path)

    def _look_in(self, seconds: float) -> None:
        self._timer = self._reactor.callLater(seconds, self._look)
        self._latest = self._reactor.seconds() + seconds

    def _look(self) -> None:
        now = fingerprint(self._path)
        if now and now != self._seen:  # a file that is gone is waited for
            self._seen = now
            try:
                self._changed()
            except Exception:  # or nobody would look any more
                log.failure("the reload failed")
        if self.running:
            self._look_in(LOOK_EVERY)

    def _inotify(self) -> Any:
        notifier: Any = None
        try:
            from twisted.internet.inotify import INotify

            notifier = INotify(self._reactor)
            for directory in {self._path.parent, Path(os.path.realpath(self._path)).parent}:
                notifier.watch(FilePath(os.fspath(directory)), SIGNS, callbacks=[self._sign])
            notifier.startReading()
        except Exception as problem:  # Twisted's INotifyError is private: no watcher left for this user
            log.info("no inotify here ({why}); looking every {s} s", why=problem, s=LOOK_EVERY)
            if notifier is not None:
                notifier.loseConnection()
            return None
        return notifier

    def _sign(self, ignored: Any, where: Any, mask: int) -> None:
        if self.running and self._timer.active():
            now = self._reactor.seconds()
            self._latest = min(self._latest, now + PATIENCE)
            self._timer.reset(max(0.0, min(SETTLE, self._latest - now)))


def fingerprint(path: Path) -> Fingerprint:
    """What differs once the file, or a link on the way to it, is replaced or written; empty: not there."""
    try:
        state = os.stat(path)
    except OSError:
        return ()
    return state.st_dev, state.st_ino, state.st_mtime_ns, state.st_ctime_ns, state.st_size
