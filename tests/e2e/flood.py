"""Opens connections to a proxy as fast as they are taken, with PROXY headers of many clients: a flood.

    python flood.py PORT CONNECTIONS CLIENTS

Keeps `HELD` of them open at a time, waits for no answer, and prints the seconds that it took.
"""

from __future__ import annotations

import socket
import sys
import time
from collections import deque

from rproxy.wire.address import Inet
from rproxy.wire.proxyheader import encode_v2

HELD = 300


def flood(port: int, connections: int, clients: int) -> float:
    """The seconds that it took."""
    began, held = time.monotonic(), deque[socket.socket]()
    for number in range(connections):
        client = number % clients
        stream = socket.create_connection(("127.0.0.1", port), timeout=30)
        source = Inet(f"10.{client >> 16 & 255}.{client >> 8 & 255}.{client & 255}", 4711)
        stream.sendall(encode_v2(source, Inet("127.0.0.1", 443)))
        held.append(stream)
        if len(held) > HELD:
            held.popleft().close()
    for stream in held:
        stream.close()
    return time.monotonic() - began


if __name__ == "__main__":
    sys.stdout.write(f"{flood(*map(int, sys.argv[1:4])):.1f}\n")
