"""A gRPC server without generated code, as a program: messages are bytes.

Its words: a name, and for TLS the files of a certificate and its key. It says on which port it listens, when
a call begins to hold, and when the call was given up by its client.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

SERVICE = "test.Echo"
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
name = sys.argv[1]
printing = threading.Lock()


def say(*words: object) -> None:
    with printing:
        print(*words, flush=True)


def echo(message: bytes, context: Any) -> bytes:
    return message


def who(message: bytes, context: Any) -> bytes:
    return name.encode()


def large(message: bytes, context: Any) -> bytes:
    return bytes(int(message))


def metadata(message: bytes, context: Any) -> bytes:
    context.send_initial_metadata([("x-first", "one")])
    context.set_trailing_metadata([("x-last", "two"), ("x-last-bin", b"\0\xff")])
    return repr(sorted(context.invocation_metadata())).encode()


def fail(message: bytes, context: Any) -> bytes:
    context.set_trailing_metadata([("x-why", "because")])
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, "näh 100%")
    raise AssertionError


def hold(message: bytes, context: Any) -> bytes:
    over = threading.Event()
    context.add_callback(over.set)
    say("holds", message.decode())
    over.wait(30)
    say("given up", message.decode())
    return b""


def collect(messages: Iterator[bytes], context: Any) -> bytes:
    sizes = [len(message) for message in messages]
    return b"%d %d" % (len(sizes), sum(sizes))


def first(messages: Iterator[bytes], context: Any) -> bytes:
    """Answers without having read everything."""
    return next(messages)


def count(message: bytes, context: Any) -> Iterator[bytes]:
    for number in range(int(message)):
        yield b"%d" % number


def endless(message: bytes, context: Any) -> Iterator[bytes]:
    yield b"begun"
    over = threading.Event()
    context.add_callback(over.set)
    say("holds", message.decode())
    over.wait(30)
    say("given up", message.decode())


def flood(message: bytes, context: Any) -> Iterator[bytes]:
    for _ in range(int(message)):
        yield bytes(65536)


def chat(messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
    yield from messages


def main() -> None:
    unary, streamed = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    server = grpc.server(ThreadPoolExecutor(32), options=UNLIMITED)
    handlers = {each.__name__: unary(each) for each in (echo, who, large, metadata, fail, hold)}
    handlers |= {each.__name__: streamed(each) for each in (count, endless, flood)}
    handlers |= {each.__name__: grpc.stream_unary_rpc_method_handler(each) for each in (collect, first)}
    handlers["chat"] = grpc.stream_stream_rpc_method_handler(chat)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    if len(sys.argv) > 2:
        certificate, key = (Path(word).read_bytes() for word in sys.argv[2:])
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    server.start()
    say("listens on", port)
    stopping.wait()
    server.stop(5).wait()


if __name__ == "__main__":
    main()
