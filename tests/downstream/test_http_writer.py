"""How responses are framed for the client's version, and which of them the kernel moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from rproxy.downstream.http_writer import SPLICE_FROM
from tests.http_world import GET, OK, World, body_of, head_of, making, request, response, statuses_of

Making = Callable[..., World]


@pytest.fixture
def worlds() -> Iterator[Making]:
    yield from making(World)


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"HEAD", response(b"Content-Length: 500")),
        (b"HEAD", response(b"Transfer-Encoding: chunked")),
        (b"HEAD", response()),
        (b"GET", response(status=b"204 No Content")),
        (b"GET", response(b"Content-Length: 7", status=b"304 Not Modified")),
        (b"DELETE", response(b"Content-Length: 0", status=b"204 No Content")),
    ],
)
def test_answers_without_a_body_leave_both_connections_usable(
    worlds: Making, method: bytes, answer: bytes
) -> None:
    world = worlds()
    client = world.connect().send(request(b"/", method=method))
    peer = world.asked()
    peer.read()
    peer.send(answer)
    got = client.read()
    assert got.endswith(b"\r\n\r\n")
    assert got.count(b"\r\n\r\n") == 1
    assert b"transfer-encoding" not in head_of(got)[1]
    client.send(GET)
    assert peer.read().startswith(b"GET /x")
    peer.send(OK)
    assert client.read() == OK


def test_the_length_that_a_head_answer_speaks_of_is_kept(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(request(b"/", method=b"HEAD"))
    world.asked().send(response(b"Content-Length: 500"))
    assert head_of(client.read())[1][b"content-length"] == b"500"


def test_a_chunked_answer_reaches_an_old_client_until_close(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(request(b"/", b"Connection: keep-alive", version=b"1.0"))
    world.asked().send(
        response(b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    line, fields = head_of(answer := client.read())
    assert (line, body_of(answer)) == (b"HTTP/1.1 200 OK", b"abcde<end>")
    assert b"transfer-encoding" not in fields
    assert fields[b"connection"] == b"close"


def test_an_old_client_keeps_its_connection_if_it_asks_to(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(request(b"/", b"Connection: keep-alive", version=b"1.0"))
    peer = world.asked()
    peer.send(OK)
    assert head_of(client.read())[1][b"connection"] == b"keep-alive"
    client.send(request(b"/", version=b"1.0"))
    peer.send(OK)
    assert client.read().endswith(b"ok<end>")


def test_a_close_delimited_answer_is_chunked_for_a_new_client(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(GET)
    peer = world.asked()
    peer.send(response(body=b"ab"), b"cd").finish()
    answer = client.read()
    assert head_of(answer)[1][b"transfer-encoding"] == b"chunked"
    assert body_of(answer) == b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"
    assert (world.idle, peer.read()[-5:]) == ([0], b"<end>")
    client.send(GET)
    world.asked().send(OK)
    assert client.read() == OK


def test_a_close_delimited_answer_that_ends_in_a_reset_is_not_complete(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(GET)
    peer = world.asked()
    peer.send(response(body=b"ab"))
    assert body_of(client.read()) == b"2\r\nab\r\n"
    peer.reset()
    assert client.read() == b"<reset>"


def test_trailers_go_through_in_both_directions(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(
        request(b"/", b"Transfer-Encoding: chunked", method=b"POST") + b"2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n"
    )
    peer = world.asked()
    assert peer.read().endswith(b"\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n")
    peer.send(response(b"Transfer-Encoding: chunked") + b"2\r\nyo\r\n0\r\nX-Sum: 8\r\n\r\n")
    assert client.read().endswith(b"2\r\nyo\r\n0\r\nX-Sum: 8\r\n\r\n")


def test_interim_answers_go_to_new_clients_only(worlds: Making) -> None:
    world = worlds()
    early = response(b"Link: </a>", status=b"103 Early Hints")
    new, old = world.connect().send(GET), world.connect().send(request(b"/", version=b"1.0"))
    world.asked().send(early + early, OK)
    world.asked().send(early, OK)
    assert statuses_of(new.read()) == [103, 103, 200]
    assert statuses_of(old.read()) == [200]


# -- what the kernel moves


@pytest.mark.parametrize(
    ("fields", "size", "moved"),
    [
        ((b"Content-Length: %d" % (4 * SPLICE_FROM),), 4 * SPLICE_FROM, True),
        ((b"Content-Length: %d" % (SPLICE_FROM - 1),), SPLICE_FROM - 1, False),
        ((), 4 * SPLICE_FROM, False),
    ],
    ids=["large", "small", "chunked"],
)
def test_a_large_rest_of_known_length_is_the_kernels(
    worlds: Making, fields: tuple[bytes, ...], size: int, moved: bool
) -> None:
    world = worlds()
    client = world.connect().send(GET)
    peer = world.asked()
    server: Any = world.servers[0]._become
    peer.send(response(*fields))
    client.read()
    assert (server.pump is not None) is moved
    octets = Random(size).randbytes(size)
    peer.send(octets)
    if not fields:
        peer.finish()
    answer = client.all(size)
    assert answer == octets if fields else octets[:1000] in answer
    assert (server.pump, world.answers.lines) == (None, [(200, "ok", size)])
    client.send(GET)
    (peer if fields else world.asked()).send(OK)
    assert client.read() == OK


def test_a_large_response_that_breaks_off_is_not_complete(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(GET)
    peer = world.asked()
    peer.send(response(b"Content-Length: %d" % (4 * SPLICE_FROM)), bytes(SPLICE_FROM))
    peer.finish()
    assert client.all(4 * SPLICE_FROM).endswith(b"<reset>")
    assert world.answers.lines == [(200, "bad_response", SPLICE_FROM)]


def test_who_leaves_inside_its_body_is_cut_off_from_a_response_that_the_kernel_moves(worlds: Making) -> None:
    world = worlds()
    client = world.connect(receive_buffer=65536)
    client.send(request(b"/", b"Content-Length: 1000", method=b"POST") + b"x" * 100)
    peer = world.asked()
    peer.read()
    size = 32 << 20
    peer.send(response(b"Content-Length: %d" % size))
    peer.push(bytes(size))
    client.finish()
    world.loop.spin()
    assert len(world.connections) == 0
    assert client.read().endswith(b"<reset>")
