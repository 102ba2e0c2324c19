"""Accepting, receiving, sending without waiting. For `transports` and `services.accepting`; see `native`.

Measured by `h1` in bench/: what the socket module does around a system call costs as much as the call's
own way into the kernel.
"""

from __future__ import annotations

import errno
import os
import socket
from array import array
from fcntl import ioctl
from struct import pack
from typing import Any, Final, Literal

CHUNK: Final = 65536
"""Bytes of a read; Twisted's, too."""
SEND: Final = 131072
"""Bytes that a send is given at most, so that a long queue is not copied for each of them."""
RESET = pack("ii", 1, 0)
"""SO_LINGER with no time: closing resets the other side."""
LATER = frozenset((errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM))
"""What passes by itself: no room, a signal in between, the kernel short of memory."""


def accept(sock: Any, number: int) -> tuple[int, Any] | None:
    """A connection of the listening socket with this descriptor, or None if there is none now.

    Its descriptor, which does not block and is closed in programs that are started; and the other end's
    name as `socket.accept` gives it: host and port, with flow and scope for IPv6, else what the socket module
    makes of it. Raises `OSError` as accept(2) fails.
    """
    try:
        made, name = sock._accept()  # `accept` makes a socket of Python's class, at twice the cost
    except BlockingIOError:
        return None
    os.set_blocking(made, False)
    return made, name


def prepare(sock: Any, number: int) -> None:
    """For a TCP socket with this descriptor: send small pieces at once, and look for dead peers."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def connect(sock: Any, number: int, place: Any) -> int:
    """Begin to connect the socket with this descriptor, or ask how it goes: the errno of connect(2), or 0.

    `place` is as for `socket.connect`, with an address and no name. Raises `OSError` for what cannot be one.
    """
    code: int = sock.connect_ex(place)
    return code


def receive(sock: Any, number: int) -> bytes | Literal[False] | None:
    """At most CHUNK bytes from the socket with this descriptor; empty at its end, None if nothing is there.

    False when the other side has reset the connection: many do, and an exception costs as much as a read.
    Raises `OSError` when it is lost for another reason.
    """
    try:
        data: bytes = sock.recv(CHUNK)
    except ConnectionResetError:
        return False
    except OSError as problem:
        if problem.errno in LATER:
            return None
        raise
    return data


def send(sock: Any, number: int, data: bytes, start: int) -> int:
    """Send from `data`, beginning at `start`: how many bytes the socket took, at most SEND.

    Raises `OSError` when the connection is lost.
    """
    rest: Any = data if not start and len(data) <= SEND else memoryview(data)[start : start + SEND]
    try:
        sent: int = sock.send(rest)
    except OSError as problem:
        if problem.errno in LATER:
            return 0
        raise
    return sent


def shut(sock: Any, number: int) -> None:
    """Shut the writing half of the socket with this descriptor; who has gone needs not be told."""
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def reset(sock: Any, number: int) -> None:
    """Let the next close of the socket with this descriptor reset the connection (socket(7), SO_LINGER)."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    except OSError:
        pass


def queued(number: int, *questions: int) -> int:
    """Bytes in the kernel's queue, by the first of these ioctls (tcp(7)) that the socket knows; else 0."""
    count = array("i", [0])
    for question in questions:
        try:
            ioctl(number, question, count)
        except (OSError, ValueError):  # of another kind, or closed
            continue
        return count[0]
    return 0
