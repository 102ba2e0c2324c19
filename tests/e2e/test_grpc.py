"""gRPC end to end: grpcio's client, rproxy, grpcio's server; in clear text and in TLS on either side."""

from __future__ import annotations

import os
import queue
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.fronts import NAMES, SCHEMES, Front, Growth, location
from tests.e2e.peers import Certificate, self_signed
from tests.e2e.programs import Program, Programs, until

# Before the import, or its threads write to the terminal about what these tests do on purpose.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
grpc = pytest.importorskip("grpc")

HTTP2 = 'upstream_options = ["force_http2_upstream"]'
UNLIMITED = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
]
LARGE = 8 << 20
schemes = pytest.mark.parametrize("scheme", SCHEMES)


class Server(NamedTuple):
    """A server in a process of its own."""

    program: Program
    port: int


def server(programs: Programs, name: str, *files: Path) -> Server:
    program = programs.start([sys.executable, "-m", "tests.e2e.grpc_server", name, *files], f"grpc-{name}")
    program.says("listens on")
    found = re.search(r"listens on (\d+)", program.log)
    assert found is not None
    return Server(program, int(found[1]))


class Calls:
    """A client's calls of the service, each with a deadline."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def __getattr__(self, name: str) -> Callable[..., Any]:
        kind = {"count": "unary_stream", "endless": "unary_stream", "flood": "unary_stream"}
        kind |= {"collect": "stream_unary", "first": "stream_unary", "chat": "stream_stream"}
        call = getattr(self._channel, kind.get(name, "unary_unary"))(f"/test.Echo/{name}")
        return lambda message, timeout=20, **options: call(message, timeout=timeout, **options)

    def with_call(self, name: str, message: bytes, **options: Any) -> Any:
        """The answer and what came with it."""
        return self._channel.unary_unary(f"/test.Echo/{name}").with_call(message, timeout=20, **options)


Dial = Callable[..., Calls]


@pytest.fixture
def dial() -> Iterator[Dial]:
    """Makes channels that end with the test."""
    channels: list[Any] = []

    def make(front: Front, scheme: str = "http") -> Calls:
        target = f"{NAMES[0]}:{front.ports[scheme]}"
        if scheme == "http":
            channels.append(grpc.insecure_channel(target, options=UNLIMITED))
        else:
            trust = grpc.ssl_channel_credentials(front.authority.read_bytes())
            channels.append(grpc.secure_channel(target, trust, options=UNLIMITED))
        return Calls(channels[-1])

    yield make
    for channel in channels:
        channel.close()


@pytest.fixture(scope="module")
def shared(lasting_programs: Programs) -> tuple[Front, Server]:
    """A proxy before one server, both in clear text towards each other."""
    behind = server(lasting_programs, "one")
    return Front(lasting_programs, location(behind.port), entry=HTTP2), behind


@pytest.fixture
def front(shared: tuple[Front, Server]) -> Front:
    return shared[0]


def why(call: Callable[[], Any]) -> Any:
    """How a call fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


@schemes
def test_a_message_for_a_message(front: Front, dial: Dial, scheme: str) -> None:
    calls = dial(front, scheme)
    assert calls.echo(b"hello") == b"hello"
    assert calls.echo(b"") == b""


@schemes
def test_large_messages_go_both_ways(front: Front, dial: Dial, scheme: str) -> None:
    message = bytes(range(256)) * (LARGE // 256)
    assert dial(front, scheme).echo(message) == message
    assert len(dial(front, scheme).large(b"%d" % LARGE)) == LARGE


@schemes
def test_a_thousand_messages_from_the_server(front: Front, dial: Dial, scheme: str) -> None:
    assert list(dial(front, scheme).count(b"1000")) == [b"%d" % number for number in range(1000)]


@schemes
def test_a_thousand_messages_from_the_client(front: Front, dial: Dial, scheme: str) -> None:
    assert dial(front, scheme).collect(iter([b"four"] * 1000)) == b"1000 4000"


@schemes
def test_a_thousand_messages_each_waiting_for_the_other(front: Front, dial: Dial, scheme: str) -> None:
    """That nothing is held back until more has come."""
    said: queue.Queue[bytes | None] = queue.Queue()
    call = dial(front, scheme).chat(iter(said.get, None), timeout=60)
    for number in range(1000):
        said.put(b"%d" % number)
        assert next(call) == b"%d" % number
    said.put(None)
    assert list(call) == []
    assert call.code() is grpc.StatusCode.OK


@schemes
def test_metadata_goes_both_ways(front: Front, dial: Dial, scheme: str) -> None:
    sent = [("x-one", "1"), ("x-two-bin", b"\0\xff"), ("te-like", "trailers")]
    answer, call = dial(front, scheme).with_call("metadata", b"", metadata=sent)
    for name, value in sent:
        assert f"key='{name}', value={value!r}" in answer.decode()
    assert "key='x-forwarded-for', value='127.0.0.1'" in answer.decode()
    assert dict(call.initial_metadata())["x-first"] == "one"
    assert dict(call.trailing_metadata()) == {"x-last": "two", "x-last-bin": b"\0\xff"}


@schemes
def test_an_error_is_told_as_the_server_told_it(front: Front, dial: Dial, scheme: str) -> None:
    error = why(lambda: dial(front, scheme).fail(b""))
    assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "näh 100%")
    assert dict(error.trailing_metadata()) == {"x-why": "because"}


def test_a_method_that_is_not_there(front: Front, dial: Dial) -> None:
    assert why(lambda: dial(front).nothing(b"")).code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_deadline_ends_a_call_on_both_sides(shared: tuple[Front, Server], dial: Dial) -> None:
    front, behind = shared
    error = why(lambda: dial(front).hold(b"deadline", timeout=0.5))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    behind.program.says("given up deadline")


@pytest.mark.parametrize("name", ["hold", "endless"])
@schemes
def test_a_cancelled_call_is_cancelled_at_the_server(
    shared: tuple[Front, Server], dial: Dial, scheme: str, name: str
) -> None:
    front, behind = shared
    calls, label = dial(front, scheme), f"{name}-{scheme}"
    if name == "hold":
        call = calls._channel.unary_unary("/test.Echo/hold").future(label.encode())
    else:
        call = calls.endless(label.encode())
        assert next(call) == b"begun"
    behind.program.says(f"holds {label}")
    call.cancel()
    behind.program.says(f"given up {label}")
    assert call.code() is grpc.StatusCode.CANCELLED
    assert calls.echo(b"the others go on") == b"the others go on"


def test_a_server_may_answer_before_it_has_heard_everything(front: Front, dial: Dial) -> None:
    assert dial(front).first(iter([b"one"] * 1000)) == b"one"


def test_many_calls_at_a_time_share_a_connection(shared: tuple[Front, Server], dial: Dial) -> None:
    front, _ = shared
    channel = dial(front)._channel
    futures = [channel.unary_unary("/test.Echo/echo").future(b"%d" % n, timeout=30) for n in range(500)]
    assert [future.result() for future in futures] == [b"%d" % number for number in range(500)]


def test_a_client_that_does_not_read_costs_no_memory(front: Front, dial: Dial) -> None:
    """64 MiB wait at the server; a message at a time is taken here."""
    assert dial(front).echo(b"warm") == b"warm"
    with Growth(front.proxy) as growth:
        call = dial(front).flood(b"1000", timeout=30)
        assert len(next(call)) == 65536
        assert dial(front).echo(b"meanwhile") == b"meanwhile"
        call.cancel()
    assert growth.by < growth.MOST


@schemes
def test_tls_to_the_server(programs: Programs, dial: Dial, scheme: str, tmp_path: Path) -> None:
    signed: Certificate = self_signed(tmp_path / "cert", "localhost")
    behind = server(programs, "tls", signed.certificate, signed.key)
    trust = f', tls = true, tls_server_name = "localhost", tls_ca_path = "{signed.certificate}"'
    front = Front(programs, location(behind.port, trust), entry=HTTP2)
    calls = dial(front, scheme)
    assert calls.echo(b"hello") == b"hello"
    assert list(calls.chat(iter([b"a", b"b"]))) == [b"a", b"b"]
    front.proxy.says(f"https://127.0.0.1:{behind.port}/test.Echo/echo")


def test_two_servers_take_turns(programs: Programs, dial: Dial) -> None:
    names = ("one", "two")
    upstreams = ", ".join(location(server(programs, name).port) for name in names)
    front = Front(programs, upstreams, entry=f'{HTTP2}\nload_balance = "round_robin"')
    calls = dial(front)
    assert sorted(calls.who(b"") for _ in range(6)) == [b"one"] * 3 + [b"two"] * 3


def test_a_server_that_dies_in_a_call_is_unavailable(programs: Programs, dial: Dial) -> None:
    behind = server(programs, "mortal")
    front = Front(programs, location(behind.port), entry=HTTP2)
    calls = dial(front)
    streaming = calls.endless(b"streaming")
    assert next(streaming) == b"begun"
    waiting = calls._channel.unary_unary("/test.Echo/hold").future(b"waiting", timeout=20)
    behind.program.says("holds waiting")
    behind.program.popen.kill()
    assert why(lambda: next(streaming)).code() is grpc.StatusCode.UNAVAILABLE
    assert why(waiting.result).code() is grpc.StatusCode.UNAVAILABLE
    assert why(lambda: calls.echo(b"")).code() is grpc.StatusCode.UNAVAILABLE


def test_a_server_that_stops_in_order_finishes_its_calls(programs: Programs, dial: Dial) -> None:
    first, second = server(programs, "first"), server(programs, "second")
    upstreams = f"{location(first.port)}, {location(second.port)}"
    front = Front(programs, upstreams, entry=f'{HTTP2}\nload_balance = "primary_backup"')
    calls = dial(front)
    said: queue.Queue[bytes | None] = queue.Queue()
    call = calls.chat(iter(said.get, None))
    said.put(b"begun")
    assert next(call) == b"begun"
    assert calls.who(b"") == b"first"
    first.program.popen.terminate()  # GOAWAY: no new calls, five seconds for those under way

    def moved() -> bool:
        try:
            return bool(calls.who(b"") == b"second")
        except grpc.RpcError:  # one that the server has begun with, and does not want any more
            return False

    until(moved, "calls of the other server")
    said.put(b"goes on")
    assert next(call) == b"goes on"
    said.put(None)
    assert list(call) == []
    first.program.ended()
    assert {calls.who(b"") for _ in range(20)} == {b"second"}


def test_without_http2_to_the_server_a_call_is_refused_and_the_log_says_why(
    programs: Programs, dial: Dial
) -> None:
    behind = server(programs, "misread")
    front = Front(programs, location(behind.port))
    error = why(lambda: dial(front).echo(b"hello"))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    front.proxy.says("force_http2_upstream")
    assert why(lambda: list(dial(front).chat(iter([b"a"])))).code() is grpc.StatusCode.UNAVAILABLE
