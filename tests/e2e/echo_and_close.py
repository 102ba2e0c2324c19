"""A backend in a process of its own: answers the first bytes of each connection with "ok" and closes.

Run by test_resources.py with the number of its listening socket's descriptor.
"""

from __future__ import annotations

import socket
import sys


def main() -> None:
    listening = socket.socket(fileno=int(sys.argv[1]))
    while True:
        stream, _ = listening.accept()
        with stream:
            stream.settimeout(5)
            try:
                stream.recv(65536)
                stream.sendall(b"ok")
            except OSError:
                pass


main()
