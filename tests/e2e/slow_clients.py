"""Clients that are slow on purpose, many of them, in a process of their own so that they slow nobody else.

Run with a port, what they do (`head`, `body` or `read`), how many there are, and for TLS the file with the
authority. Once all of them are in place the log says so; then each sends (or reads) a little every second,
until the program is ended.
"""

from __future__ import annotations

import socket
import ssl
import sys
import time

SEGMENT = 1460
"""Bytes in a segment, as on Ethernet. With the 64 KiB of the loopback the kernel keeps megabytes for each of
these readers, and they run into its limit for all of TCP: then nobody is served, by whatever proxy."""
PAUSE = 0.004
"""Seconds between two arrivals. Slow clients have time; a crowd at once is another attack."""
TURNS = 50
"""Parts of a second; in each of them that share of the clients moves."""
BEGINNINGS = {
    "head": b"GET / HTTP/1.1\r\nHost: a.test\r\nX-Slow: ",
    "body": b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n\r\n",
    "read": b"GET /large HTTP/1.1\r\nHost: a.test\r\n\r\n",
}


def main() -> None:
    port, kind, count, *authority = sys.argv[1:]
    secret = ssl.create_default_context(cafile=authority[0]) if authority else None
    clients = []
    for _ in range(int(count)):
        clients.append(arrive(int(port), kind, secret))
        time.sleep(PAUSE)
    print("all are in place", flush=True)
    while True:
        for turn in range(TURNS):
            for client in clients[turn::TURNS]:
                move(client, kind)
            time.sleep(1 / TURNS)


def arrive(port: int, kind: str, secret: ssl.SSLContext | None) -> socket.socket:
    """A connection that has said all that it says at once."""
    client = socket.socket()
    client.settimeout(10)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
    client.connect(("127.0.0.1", port))
    if secret is not None:
        client = secret.wrap_socket(client, server_hostname="localhost")
    client.sendall(BEGINNINGS[kind])
    return client


def move(client: socket.socket, kind: str) -> None:
    """A byte more; who is not served any more ends the program, and with it the test."""
    if kind == "read":
        assert client.recv(256)
    else:
        client.sendall(b"a")


if __name__ == "__main__":
    main()
