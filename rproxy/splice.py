"""The relay's fast path: one direction of bytes between two TCP transports, without a protocol call.

A `Pump` takes the place of its source transport's `doRead`: it receives and sends on the sockets
themselves, and leaves to the other transport what its socket does not take at once
(buffering, back-pressure, half-close, closing). After `BULK` bytes it stops copying: the kernel
moves the bytes through a pipe (splice(2)). Made by `relay`; measured by `sni_conn` and
`sni_bulk` in bench/. The slow twin is `relay` itself, whose tests run over both.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from typing import Any, Final, Literal

from mypy_extensions import mypyc_attr
from twisted.internet.interfaces import IPushProducer
from zope.interface import classImplements

from rproxy.native import sockets
from rproxy.transports import END, LOST, Mover, Stream, receive, send

BULK: Final = 65536
"""Bytes after which a direction is taken for a bulk transfer; below it two splices cost more than a copy."""
PIPE_SIZE: Final = 1 << 20
"""Bytes a pipe holds and one turn of the loop moves; the kernel's default, 64 KiB, costs 3 times the CPU."""
ENDLESS: Final = 1 << 61
"""The limit of a pump that has none; a larger number would be an object to compiled code."""
IDLE_PIPES: Final = 16
"""Empty pipes kept for the next turn; each costs two file descriptors and, while empty, no memory."""
SPLICE_FLAGS: Final = getattr(os, "SPLICE_F_MOVE", 1) | getattr(os, "SPLICE_F_NONBLOCK", 2)

_CHUNK: Final = sockets.CHUNK

Pipe = tuple[int, int]


@mypyc_attr(allow_interpreted_subclasses=True)
class Pipes:
    """Pipes for splicing, re-used while empty; one pool per proxy."""

    def __init__(self) -> None:
        self._idle: list[Pipe] = []
        self._size = PIPE_SIZE

    def take(self) -> Pipe | None:
        """An empty pipe, or None where the kernel grants none that is worth it (limits on pipes, fds)."""
        if self._idle:
            return self._idle.pop()
        try:
            pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:  # an unprivileged user's share of pipe pages is used up
            self.drop(pipe)
            return None
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Return a pipe that is empty again."""
        if len(self._idle) < IDLE_PIPES:
            self._idle.append(pipe)
        else:
            self.drop(pipe)

    def drop(self, pipe: Pipe) -> None:
        """Close a pipe, with whatever is in it."""
        os.close(pipe[0])
        os.close(pipe[1])

    def close(self) -> None:
        """Close the idle pipes; those in use are closed by their pumps."""
        while self._idle:
            self.drop(self._idle.pop())


class Pump(Mover):
    """Bytes from `source` to `sink`; `moved` counts them. `stop` it when either transport goes.

    With a `limit` it takes no more than that many, stops itself then, and calls `done`.
    """

    __slots__ = ("_bulk", "_done", "_held", "_left", "_pipe", "_pipes", "_sink", "_source", "moved")

    def __init__(
        self,
        source: Stream,
        sink: Stream,
        pipes: Pipes,
        limit: int = ENDLESS,
        done: Callable[[], object] | None = None,
    ) -> None:
        self._source, self._sink, self._pipes = source, sink, pipes
        self._left, self._done = limit, done
        self._pipe: Pipe | None = None
        self._held = 0
        self._bulk = False
        self.moved = 0
        source.reads = self

    @property
    def held(self) -> int:
        """Bytes moved that the sink's socket has not taken yet."""
        return self._held

    def stop(self) -> None:
        """Give the transports their own methods back and let go of the pipe."""
        if self._source.reads is self:
            self._source.reads = None
        if self._sink.writes is self:
            self._sink.writes = None
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            self._pipes.drop(pipe)

    def readable(self) -> Any:
        """The source has something: its `doRead`."""
        return self._splice() if self._bulk else self._copy()

    def _copy(self) -> Any:
        """While little has been seen."""
        source = self._source
        chunk: bytes | Literal[False] | None
        try:
            if self._left >= _CHUNK:
                chunk = receive(source.socket, source.number)
            else:
                chunk = source.socket.recv(self._left)
        except BlockingIOError:
            return None
        except OSError:
            return LOST
        if chunk is False:
            return LOST
        if not chunk:
            return None if chunk is None else self._at_end()
        self.moved += len(chunk)
        self._left -= len(chunk)
        self._pass_on(chunk)
        if not self._left:
            self._end()
        return None

    def _at_end(self) -> Any:
        """The kernel tells of a reset once: what writing has heard, reading would take for an end."""
        return LOST if self._source._broken else END

    def _pass_on(self, chunk: bytes) -> None:
        sink = self._sink
        sent = 0
        if not (sink.dataBuffer or sink._tempDataLen or sink.disconnecting):
            try:
                sent = send(sink.socket, sink.number, chunk, 0)
            except OSError:  # the sink's own next attempt reports it
                sent, sink._broken = 0, True
        if sent == len(chunk):
            self._bulk = self.moved >= BULK
            return
        if sink.producer is None:  # now back-pressure is needed: the sink pauses the source when it is full
            sink.registerProducer(self, True)
        sink.write(chunk[sent:] if sent else chunk)

    def _end(self) -> None:
        self.stop()
        if self._done is not None:
            self._done()

    def _splice(self) -> Any:
        """`doRead` of a bulk transfer: the pipe is empty and the sink waits for nothing when it is called."""
        pipe = self._pipes.take()
        if pipe is None or self._sink.dataBuffer or self._sink._tempDataLen:
            if pipe is not None:
                self._pipes.give_back(pipe)
            return self._copy()
        try:
            most = min(PIPE_SIZE, self._left)
            count = os.splice(self._source.fileno(), pipe[1], most, flags=SPLICE_FLAGS)
        except BlockingIOError:
            self._pipes.give_back(pipe)
            return None
        except OSError:
            self._pipes.drop(pipe)
            return LOST
        if not count:
            self._pipes.give_back(pipe)
            return self._at_end()
        self.moved += count
        self._left -= count
        self._pipe, self._held = pipe, count
        if self._drain() is not None or self._held:
            self._source.stopReading()
            self._sink.writes = self
            self._sink.startWriting()
        elif not self._left:
            self._end()
        return None

    def _drain(self) -> Any:
        """Move what the pipe holds into the sink; gives the pipe back when it is empty."""
        assert self._pipe is not None
        try:
            self._held -= os.splice(self._pipe[0], self._sink.fileno(), self._held, flags=SPLICE_FLAGS)
        except BlockingIOError:
            return None
        except OSError:
            self._sink._broken = True
            return LOST
        if not self._held:
            pipe, self._pipe = self._pipe, None
            self._pipes.give_back(pipe)
        return None

    def writable(self) -> Any:
        """The sink's `doWrite` while the pipe holds bytes for it; the source is not read meanwhile."""
        lost = self._drain()
        if lost is not None or self._held:
            return lost
        sink = self._sink
        sink.writes = None
        if not (sink.dataBuffer or sink._tempDataLen or sink.disconnecting or sink._half_closing):
            sink.stopWriting()
        self._source.resumeProducing()
        if not self._left:
            self._end()
        return None

    def pauseProducing(self) -> None:
        """The sink's call: its queue is full."""
        self._source.pauseProducing()

    def resumeProducing(self) -> None:
        """The sink's call: it is not any more."""
        self._source.resumeProducing()

    def stopProducing(self) -> None:
        """The sink's call when it is lost: its protocol's `connectionLost` does what the source needs."""


classImplements(Pump, IPushProducer)
