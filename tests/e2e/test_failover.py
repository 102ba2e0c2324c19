"""Peers that are closed, silent, gone or nameless; and how connections spread over those that work."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.conftest import Peer, Serving
from tests.e2e.peers import Certificate, nginx
from tests.e2e.programs import Programs, free_port, run, until
from tests.e2e.streams import INTERNAL_ERROR, Backend, ask, call, exactly, read_hello, reset, saying


def app(*locations: str, balance: str = "none", more: str = "") -> str:
    """An app for a.test with these peers; tried in order unless `balance` says otherwise."""
    peers = ", ".join(f'{{ location = "{location}" }}' for location in locations)
    return (
        '[apps.a]\nserver_name = "a.test"\n'
        f'passthrough = {{ upstream = [{peers}], load_balance = "{balance}"{more} }}\n'
    )


def at(backend: Backend) -> str:
    return f"127.0.0.1:{backend.port}"


@pytest.fixture
def silent() -> Iterator[str]:
    """A location that takes no connection and refuses none: its queue is full."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        queued = []
        for _ in range(10):
            filling = socket.socket()
            filling.settimeout(0.2)
            queued.append(filling)
            if filling.connect_ex(address):
                break
        else:
            pytest.skip("this kernel's queues do not fill")
        yield f"127.0.0.1:{address[1]}"
        for filling in queued:
            filling.close()


def test_a_closed_port_costs_no_connection(programs: Programs, serving: Serving) -> None:
    second = serving(saying(b"second"))
    proxy = programs.rproxy(app(f"127.0.0.1:{free_port()}", at(second)))
    with ThreadPoolExecutor(8) as pool:
        answers = Counter(pool.map(lambda _: ask(proxy.port, "a.test"), range(200)))
    assert answers == {b"second": 200}
    assert proxy.log.count("is down") == 1


def test_a_silent_peer_is_given_up_after_connect_timeout(
    programs: Programs, serving: Serving, silent: str
) -> None:
    second = serving(saying(b"second"))
    proxy = programs.rproxy(app(silent, at(second), more=', connect_timeout = "500ms"'))
    began = time.monotonic()
    assert ask(proxy.port, "a.test") == b"second"
    assert 0.5 <= time.monotonic() - began < 1.5
    began = time.monotonic()
    assert ask(proxy.port, "a.test") == b"second"
    assert time.monotonic() - began < 0.4  # it is known to be down


def test_when_every_peer_fails_the_client_gets_alert_80(programs: Programs, silent: str) -> None:
    closed = f"127.0.0.1:{free_port()}"
    proxy = programs.rproxy('connect_timeout = "300ms"\n' + app(closed, silent))
    assert ask(proxy.port, "a.test") == INTERNAL_ERROR
    until(lambda: proxy.ends(), "the end in the log")
    assert proxy.ends()[0]["reason"] == "no_peer"


def test_clients_that_leave_while_we_connect_leave_nothing_behind(programs: Programs, silent: str) -> None:
    proxy = programs.rproxy('connect_timeout = "1s"\n' + app(silent))
    before = proxy.fds
    clients = [call(proxy.port, "a.test") for _ in range(6)]
    until(lambda: proxy.fds >= before + 12, "two descriptors for each client")
    for client in clients[:3]:
        client.close()
    for client in clients[3:]:
        reset(client)
    until(lambda: len(proxy.ends()) == 6, "the ends in the log")
    until(lambda: proxy.fds <= before, "the descriptors are closed")


def test_a_unix_socket_is_a_peer(
    programs: Programs, peer: Peer, certificate: Certificate, short_path: Path
) -> None:
    path = f"{short_path}/tls.sock"
    server = (
        f"server {{ listen unix:{path} ssl; ssl_certificate {certificate.certificate};"
        f' ssl_certificate_key {certificate.key}; return 200 "over unix\\n"; }}'
    )
    nginx(programs, peer("nginx"), server, path)
    proxy = programs.rproxy(app(f"unix:{path}"))
    words = [peer("curl"), "--silent", "--insecure", "--max-time", "10", "--noproxy", "*"]
    words += ["--resolve", f"a.test:{proxy.port}:127.0.0.1", f"https://a.test:{proxy.port}/"]
    assert run(words).stdout == "over unix\n"


def test_a_missing_unix_socket_is_an_unreachable_peer(
    programs: Programs, serving: Serving, short_path: Path
) -> None:
    second = serving(saying(b"second"))
    proxy = programs.rproxy(app(f"unix:{short_path}/gone.sock", at(second)))
    assert ask(proxy.port, "a.test") == b"second"


def test_a_twisted_endpoint_is_a_peer(programs: Programs, serving: Serving) -> None:
    backend = serving(saying(b"by endpoint"))
    proxy = programs.rproxy(app(f"tcp:127.0.0.1:{backend.port}:timeout=3"))
    assert ask(proxy.port, "a.test") == b"by endpoint"


def test_a_name_that_never_resolves_keeps_nobody_from_starting_or_serving(
    programs: Programs, serving: Serving
) -> None:
    backend = serving(saying(b"served"))
    proxy = programs.rproxy(
        app("no-such-host.invalid:443", at(backend))
        + '[apps.b]\nserver_name = "b.test"\n'
        + 'passthrough = { upstream = [{ location = "no-such-host.invalid:443" }], connect_timeout = "2s" }\n'
    )
    assert ask(proxy.port, "a.test") == b"served"
    with ThreadPoolExecutor(4) as pool:
        nameless = [pool.submit(ask, proxy.port, "b.test") for _ in range(4)]
        began = time.monotonic()
        assert ask(proxy.port, "a.test") == b"served"
        assert time.monotonic() - began < 0.5  # nobody waits for the resolver but those who need it
        assert {future.result() for future in nameless} == {INTERNAL_ERROR}


def test_a_name_is_resolved_to_an_address_that_works(programs: Programs, serving: Serving) -> None:
    backend = serving(saying(b"by name"))  # localhost may be ::1 first, where nobody listens
    proxy = programs.rproxy(app(f"localhost:{backend.port}"))
    assert ask(proxy.port, "a.test") == b"by name"


def test_a_peer_that_comes_back_serves_as_soon_as_it_is_needed(
    programs: Programs, serving: Serving, short_path: Path
) -> None:
    path = short_path / "first.sock"
    second = serving(saying(b"second"))
    proxy = programs.rproxy(app(f"unix:{path}", at(second), balance="primary_backup"))
    assert ask(proxy.port, "a.test") == b"second"
    serving(saying(b"first"), path)
    second.end()
    assert ask(proxy.port, "a.test") == b"first"
    proxy.says("is up again")


@pytest.mark.parametrize("balance", ["round_robin", "random", "source_ip"])
def test_connections_spread_as_the_balancer_says(programs: Programs, serving: Serving, balance: str) -> None:
    backends = [serving(saying(letter)) for letter in (b"a", b"b")]
    proxy = programs.rproxy(app(*map(at, backends), balance=balance))
    answers = Counter(ask(proxy.port, "a.test") for _ in range(100))
    assert sum(answers.values()) == 100
    match balance:
        case "round_robin":
            assert answers == {b"a": 50, b"b": 50}
        case "random":
            assert min(answers[b"a"], answers[b"b"]) > 15  # less has a chance of 1 in 10^13
        case _:
            assert len(answers) == 1
            sources = [f"127.0.0.{number}" for number in range(2, 34)]
            assert len({ask(proxy.port, "a.test", source=source) for source in sources}) == 2


def test_weights_count(programs: Programs, serving: Serving) -> None:
    a, b = serving(saying(b"a")), serving(saying(b"b"))
    proxy = programs.rproxy(
        '[apps.a]\nserver_name = "a.test"\n[apps.a.passthrough]\nload_balance = "round_robin"\n'
        f'upstream = [{{ location = "{at(a)}", weight = 3 }}, {{ location = "{at(b)}" }}]\n'
    )
    assert Counter(ask(proxy.port, "a.test") for _ in range(40)) == {b"a": 30, b"b": 10}


def test_least_connections_fills_the_emptier_peer(programs: Programs, serving: Serving) -> None:
    def staying(letter: bytes) -> Backend:
        def serve(stream: socket.socket) -> None:
            read_hello(stream)
            stream.sendall(letter)
            stream.recv(1)

        return serving(serve)

    a, b = staying(b"a"), staying(b"b")
    proxy = programs.rproxy(app(at(a), at(b), balance="least_connections"))
    held: dict[bytes, list[socket.socket]] = {b"a": [], b"b": []}
    for _ in range(20):
        client = call(proxy.port, "a.test")
        held[exactly(client, 1)].append(client)
    assert [len(clients) for clients in held.values()] == [10, 10]
    while held[b"a"]:
        held[b"a"].pop().close()
    until(lambda: len(proxy.ends()) == 10, "the ends in the log")
    fresh = [call(proxy.port, "a.test") for _ in range(10)]
    assert {exactly(client, 1) for client in fresh} == {b"a"}
    for client in [*fresh, *held[b"b"]]:
        client.close()
