"""A Python web app as people write them, to be served by Twisted's WSGI server or by the one in the stdlib.

`twist web --wsgi tests.e2e.wsgi_app.application` speaks HTTP/1.1 and keeps connections; run with
`fronts.backend` it is wsgiref, which speaks HTTP/1.0 and ends each answer by closing.
"""

from __future__ import annotations

import json
import os
import socket
import socketserver
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    match environ["PATH_INFO"]:
        case "/lines":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return (b"line %d\n" % number for number in range(1000))
        case "/moved":
            start_response("303 See Other", [("Location", "/show?after=moving"), ("Content-Length", "0")])
            return []
        case "/cookies":
            start_response("204 No Content", [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2; HttpOnly")])
            return []
        case "/slow":
            time.sleep(0.05)
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"%d" % os.getpid()]
        case "/broken":
            start_response("500 Internal Server Error", [("Content-Length", "4")])
            return [b"oops"]
    body = json.dumps(shown(environ)).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def shown(environ: WSGIEnvironment) -> dict[str, Any]:
    """What the app knows of a request."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    fields = {name[5:].replace("_", "-").lower(): environ[name] for name in environ if name[:5] == "HTTP_"}
    names = "REQUEST_METHOD", "PATH_INFO", "QUERY_STRING"
    return {"asked": [environ[name] for name in names], "body": body.decode(), "fields": fields}


class Threaded(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # as when wrk leaves in the middle of an answer
            super().handle_error(request, client_address)


class Silent(WSGIRequestHandler):
    wbufsize = 1 << 16  # an answer is one write: killed, an app has said all of it or nothing

    def log_message(self, *args: Any) -> None:
        pass


def main() -> None:
    server = Threaded(("127.0.0.1", 0), Silent, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=int(sys.argv[1]))
    server.server_name, server.server_port = server.socket.getsockname()
    server.setup_environ()
    server.set_app(application)
    server.serve_forever()


if __name__ == "__main__":
    main()
