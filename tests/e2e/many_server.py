"""A backend that answers quickly, late, slowly or never, for thousands; run with `fronts.backend`.

What it does is in the path: `/late/0.5` answers after half a second, `/drip` sends a byte now and then,
`/pour` sends while somebody takes it, `/stall` reads nothing of a body, `/interim` sends 103 before its
answer, and `/trailers` fields behind its body; `/hold` is answered when `/release` is, and `/held` says how
many wait. `/page/N` is a page for browsers: it loads N resources, talks to a WebSocket, and asks
for `/loaded/N/hello`. Anything else is answered at once with its path.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys

LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
DRIP = 0.02
"""Seconds between two bytes."""
PIECE = bytes(1 << 16)
HEAD_ENDS = b"\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000" + HEAD_ENDS
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>" + HEAD_ENDS
TRAILERS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX-Sum: 17" + HEAD_ENDS
PAGE = """<!DOCTYPE html><title>page</title><script>
const ask = async path => await (await fetch(path)).text() == path;
const talk = () => new Promise(resolve => {
    const socket = new WebSocket("wss://" + location.host + "/ws/echo/page");
    socket.onopen = () => socket.send("hello");
    socket.onmessage = event => { resolve(event.data); socket.close(4001, "enough"); };
    socket.onerror = () => resolve("failed");
});
(async () => {
    const right = await Promise.all([...Array(%d).keys()].map(number => ask("/piece/" + number)));
    await fetch("/loaded/" + right.filter(Boolean).length + "/" + await talk());
})();
</script>"""


def response(body: bytes, *fields: bytes) -> bytes:
    """A whole response."""
    lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join(lines) + HEAD_ENDS + body


class House:
    """What the connections have in common."""

    def __init__(self) -> None:
        self.waiting: list[Guest] = []
        self.guests: set[Guest] = set()
        """All of them: asyncio itself forgets a connection that is neither read nor written."""

    def release(self) -> None:
        """All that wait are answered."""
        waiting, self.waiting = self.waiting, []
        for guest in waiting:
            guest.say_late()


class Guest(asyncio.Protocol):
    """One connection."""

    def __init__(self, house: House) -> None:
        self._house, self._got = house, b""
        self._path = b""
        self._busy = self._pouring = self._full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self._loop = transport, asyncio.get_running_loop()
        self._house.guests.add(self)

    def data_received(self, data: bytes) -> None:
        self._got += data
        self._go_on()

    def connection_lost(self, error: Exception | None) -> None:
        self._pouring = False
        self._house.guests.discard(self)
        if self in self._house.waiting:
            self._house.waiting.remove(self)

    def _go_on(self) -> None:
        while not self._busy and HEAD_ENDS in self._got:
            head, _, rest = self._got.partition(HEAD_ENDS)
            method, self._path, _ = head.split(b" ", 2)
            self._busy = True
            if self._path == b"/stall":
                self.transport.pause_reading()
                return
            length = LENGTH.search(head)
            size = int(length[1]) if length else 0
            if len(rest) < size:
                self._busy = False
                return
            self._got = rest[size:]
            if method == b"HEAD":
                self.say(response(self._path).partition(HEAD_ENDS)[0] + HEAD_ENDS)
            else:
                self._answer()

    def say(self, octets: bytes) -> None:
        """Here is the answer."""
        self._busy = False
        self.transport.write(octets)

    def say_late(self) -> None:
        """Here it is at last; something else may have been asked meanwhile."""
        self.say(response(self._path))
        self._go_on()

    def _answer(self) -> None:
        match self._path.decode("ascii").split("/"):
            case [_, "late", seconds]:
                self._loop.call_later(float(seconds), self.say_late)
            case [_, "hold", *_]:
                self._house.waiting.append(self)
            case [_, "held"]:
                self.say(response(b"%d" % len(self._house.waiting)))
            case [_, "release"]:
                self._house.release()
                self.say(response(b"released"))
            case [_, "drip"]:
                self.transport.write(ENDLESS)
                self._drip()
            case [_, "pour"]:
                self.transport.write(ENDLESS)
                self._pouring = True
                self.resume_writing()
            case [_, "interim"]:
                self.say(INTERIM + response(self._path))
            case [_, "trailers"]:
                self.say(TRAILERS)
            case [_, "page", count]:
                self.say(response((PAGE % int(count)).encode(), b"Content-Type: text/html"))
            case _:
                self.say(response(self._path))

    def _drip(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(b"x")
            self._loop.call_later(DRIP, self._drip)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        while self._pouring and not self._full and not self.transport.is_closing():
            self.transport.write(PIECE)


async def main() -> None:
    house, listening = House(), socket.socket(fileno=int(sys.argv[1]))
    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: Guest(house), sock=listening, backlog=2048) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
