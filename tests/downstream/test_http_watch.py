"""What a client's time is measured by: heads, bodies, silence, and who is to blame for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from rproxy.downstream.http_watch import HttpLimits
from rproxy.splice import Pipes, Pump
from tests.http_world import GET, OK, SLACK, World, making, request, response, statuses_of

Making = Callable[..., World]


@pytest.fixture
def worlds() -> Iterator[Making]:
    yield from making(World)


def test_a_slow_head_is_refused_after_its_time_in_all(worlds: Making) -> None:
    world = worlds()
    client = world.connect()
    for octet in GET[:20]:
        client.send(bytes([octet]))
        world.wait(0.9)
    assert client.read() == b""
    world.wait(2 + SLACK)
    assert statuses_of(client.read()) == [408]
    assert world.answers.lines[0][:2] == (408, "too_slow")


def test_the_time_for_a_head_begins_with_it(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(GET)
    peer = world.asked()
    peer.send(OK)
    client.read()
    world.wait(60)
    client.send(GET[:10])
    world.wait(10)
    client.send(GET[10:])
    if world.is_asked():
        return
    pytest.fail("it was refused: " + repr(client.read()))


def test_an_idle_connection_is_closed_without_a_word(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(GET)
    world.asked().send(OK)
    client.read()
    world.wait(70)
    assert client.read() == b""
    world.wait(5 + SLACK)
    assert client.read() == b"<end>"


def test_a_body_that_stops_is_refused(worlds: Making) -> None:
    world = worlds(limits=HttpLimits(min_rate=0))
    client = world.connect().send(request(b"/", b"Content-Length: 10", method=b"POST") + b"x")
    peer = world.asked()
    world.wait(50)
    client.send(b"x")
    world.wait(50)
    assert client.read() == b""
    world.wait(10 + SLACK)
    assert statuses_of(client.read()) == [408]
    assert peer.read().endswith(b"<reset>")


def test_a_trickled_body_is_refused(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(request(b"/", b"Content-Length: 100000", method=b"POST"))
    world.asked()
    for _ in range(10):
        client.send(b"x" * 50)
        world.wait(1)
    world.wait(SLACK)
    assert statuses_of(client.read()) == [408]


def test_a_client_that_waits_for_continue_is_not_slow(worlds: Making) -> None:
    world = worlds()
    ask = request(b"/", b"Expect: 100-continue", b"Content-Length: 30000", method=b"PUT")
    client = world.connect().send(ask)
    world.asked()
    world.wait(30)
    assert client.read() == b""


def test_a_long_upload_leaves_the_peer_its_time_to_answer(worlds: Making) -> None:
    world = worlds(response_timeout=20.0)
    client = world.connect().send(request(b"/", b"Content-Length: 7000", method=b"POST"))
    peer = world.asked()
    for _ in range(70):
        client.send(b"x" * 100)
        world.wait(0.5)
    world.wait(15)
    assert client.read() == b""
    peer.send(OK)
    assert client.read() == OK


def test_a_peer_that_takes_no_body_is_to_blame_for_it(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(request(b"/", b"Content-Length: 900000000", method=b"POST"))
    world.asked()
    client.push(b"x" * (64 << 20))
    world.wait(60 + 2 * SLACK)
    assert statuses_of(client.read()) == [504]


def test_a_client_that_takes_nothing_is_cut_off(worlds: Making) -> None:
    world = worlds()
    world.connect(receive_buffer=4096).send(GET)
    peer = world.asked()
    peer.push(response(b"Content-Length: %d" % (64 << 20)) + b"x" * (64 << 20))
    world.wait(120)  # the kernel may take its last bytes late
    assert (len(world.connections), world.open, world.answers.lines[0][:2]) == (0, [0], (200, "too_slow"))


def test_a_client_that_takes_little_is_not(worlds: Making) -> None:
    world, size = worlds(), 64 << 20
    client = world.connect(receive_buffer=4096).send(request(b"/", b"Connection: close"))
    peer = world.asked()
    peer.push(response(b"Content-Length: %d" % size) + b"x" * size)
    for _ in range(30):
        client.world.loop.spin()
        assert len(client.socket.recv(2000)) > 0
        world.wait(10)
    assert len(world.connections) == 1


def test_what_leaves_the_pipe_counts_although_the_kernels_queue_stays_as_full(worlds: Making) -> None:
    world = worlds()
    world.connect()
    server = world.servers[0]._become
    stuck = []
    server.pump = pump = Pump(server.transport, server.transport, Pipes())
    pump.moved = 1_000_000
    for now, held in ((0.0, 900_000), (50.0, 800_000), (100.0, 700_000), (161.0, 700_000)):
        pump._held = held
        stuck.append(server._watch._is_stuck(now))
    assert stuck == [False, False, False, True]


def test_the_last_answer_waits_for_its_reader_but_not_for_ever(worlds: Making) -> None:
    world = worlds()
    client = world.connect(receive_buffer=4096).send(request(b"/", b"Connection: close"))
    world.asked().push(response(b"Content-Length: 3000000") + b"x" * 3_000_000)
    world.loop.spin()
    assert len(world.connections) == 1
    world.wait(60 + 2 * SLACK)
    assert len(world.connections) == 0
    assert client.read().endswith(b"<reset>")


# -- how often that is looked at


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        (HttpLimits(), 5.0),
        (HttpLimits(head=2.0), 0.5),
        (HttpLimits(keep_alive=4.0), 1.0),
        (HttpLimits(body=8.0), 2.0),
        (HttpLimits(shortest=12.0), 3.0),
        (HttpLimits(head=90.0, shortest=90.0), 5.0),
        (HttpLimits(head=0.01), 0.05),
    ],
)
def test_looks_are_four_to_the_shortest_limit(limits: HttpLimits, seconds: float) -> None:
    assert limits.look_every == seconds


def test_a_limit_of_zero_is_none(worlds: Making) -> None:
    world = worlds(limits=HttpLimits(body=0, min_rate=0), body_timeout=0.0)
    client = world.connect().send(request(b"/", b"Content-Length: 10", method=b"POST") + b"x")
    world.asked()
    world.wait(600)
    assert client.read() == b""


def test_nothing_is_looked_at_once_the_connection_is_lost(worlds: Making) -> None:
    world = worlds()
    client = world.connect()
    world.wait(1)
    client.leave()
    world.wait(1)
    assert world.loop.getDelayedCalls() == []
