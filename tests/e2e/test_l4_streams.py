"""What goes over `[l4.<name>]`: every byte and every end, in clear text and in TLS, and a real protocol."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest

from tests.e2e.conftest import Peer, Serving
from tests.e2e.identities import HalfClosing, Identities, Service, echo
from tests.e2e.programs import Programs, free_port, run, until
from tests.e2e.streams import CHUNK, all_of, connect, exactly, receive_all, reset, send_pattern

MIB = 1 << 20


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return Identities(tmp_path_factory.mktemp("identities"))


GROUPS = 'authorized_groups = ["admin"]\n'


def test_who_may_talks_to_the_upstream(programs: Programs, serving: Serving, identities: Identities) -> None:
    """G-4, G-9: bytes both ways, then the client's end, then the server's."""
    seen: list[tuple[int, str]] = []

    def serve(stream: socket.socket) -> None:
        seen.append(receive_all(stream))
        send_pattern(stream, 3 * MIB, 2)

    service = Service(programs, [serving(serve)], GROUPS + identities.tls)
    with HalfClosing(identities, service.port) as client:
        sent = client.send_all(MIB, 1)
        count, _ = client.receive_all()
    assert seen == [(MIB, sent)]
    assert count == 3 * MIB
    end = service.ended()
    assert (end["user"], end["reason"], end["received"]) == ("bob@admin", "closed", str(MIB))


def test_the_end_of_a_stream_can_be_told_from_its_loss(
    programs: Programs, serving: Serving, identities: Identities
) -> None:
    """A client that is cut off, and one whose server says goodbye."""

    def serve(stream: socket.socket) -> None:
        stream.sendall(b"whole")

    service = Service(programs, [serving(serve)], identities.tls)
    with HalfClosing(identities, service.port) as client:
        assert client.receive_all() == (5, "goodbye")


@pytest.mark.parametrize("size", [5, 8 * MIB])
def test_an_answer_that_is_cut_off_does_not_look_whole(
    programs: Programs, serving: Serving, identities: Identities, size: int
) -> None:
    """Neither when all of it has arrived nor when some waits for a client that is slow."""
    ready = threading.Event()

    def serve(stream: socket.socket) -> None:
        exactly(stream, 2)
        stream.settimeout(0.5)
        try:
            send_pattern(stream, size, 1)
            stream.recv(1)
        except TimeoutError:  # nobody takes more, or says more
            pass
        ready.set()
        reset(stream)

    service = Service(programs, [serving(serve)], identities.tls)
    with HalfClosing(identities, service.port) as client:
        client.send(b"go")
        assert ready.wait(5)
        try:
            count, how = client.receive_all()
        except ConnectionResetError:
            count, how = 0, "cut off"
    assert (how, count < 8 * MIB) == ("cut off", True)
    assert service.ended()["reason"] == "peer_reset"


@pytest.mark.parametrize("how", ["end of TCP", "reset", "fatal alert"])
def test_what_a_client_sends_and_is_cut_off_does_not_look_whole(
    programs: Programs, serving: Serving, identities: Identities, how: str
) -> None:
    """A client sends a fatal alert, too, when somebody on the way has changed what the server says."""
    ended, heard = list[str](), threading.Event()

    def serve(stream: socket.socket) -> None:
        stream.sendall(b"welcome")
        exactly(stream, 14)
        heard.set()
        try:
            receive_all(stream)
            ended.append("whole")
        except ConnectionResetError:
            ended.append("cut off")

    service = Service(programs, [serving(serve)], identities.tls)
    with HalfClosing(identities, service.port) as client:
        client.send(b"the first half")
        assert heard.wait(5)
        if how == "end of TCP":
            client.stream.shutdown(socket.SHUT_WR)
        elif how == "reset":
            reset(client.stream)
        else:
            client.complain()
        until(lambda: ended, "the end")
    assert ended == ["cut off"]
    assert service.ended()["reason"] == ("client_left" if how == "end of TCP" else "client_reset")


def test_a_service_that_nobody_serves_is_no_regular_end(
    programs: Programs, serving: Serving, identities: Identities
) -> None:
    backend = serving(echo)
    service = Service(programs, [backend], identities.tls)
    backend.end()
    with HalfClosing(identities, service.port) as client:
        assert client.receive_all() == (0, "cut off")
    assert service.ended()["reason"] == "peer_unreachable"


def test_an_upstream_behind_tls_is_verified(
    programs: Programs, serving: Serving, identities: Identities
) -> None:
    """The one that cannot be is passed over, and hears nothing of what the client says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identities.folder / "server.pem", identities.folder / "server.key")
    heard: list[bytes] = []

    def serve(stream: socket.socket) -> None:
        with context.wrap_socket(stream, server_side=True) as inside:
            inside.sendall(inside.recv(CHUNK).upper())

    def eavesdrop(stream: socket.socket) -> None:
        heard.append(stream.recv(CHUNK))
        stream.sendall(b"\x15\x03\x03\x00\x02\x02\x28")

    good, bad = serving(serve), serving(eavesdrop)
    secured = f'tls = true, tls_ca_path = "{identities.folder}/ca.pem", tls_server_name = "a.test"'
    peers = ", ".join(f'{{ location = "127.0.0.1:{each.port}", {secured} }}' for each in (bad, good))
    port = free_port()
    proxy = programs.rproxy(
        f'[l4.db]\nlisten = "127.0.0.1:{port}"\nload_balance = "none"\nupstream = [{peers}]\n{identities.tls}'
    )
    with identities.connect(port) as client:
        client.sendall(b"secret")
        assert client.recv(6) == b"SECRET"
    assert len(heard) == 1
    assert heard[0][:2] == b"\x16\x03"
    assert b"secret" not in heard[0]
    until(proxy.ends, "a line")


# -- Clear text ---------------------------------------------------------------------------------------------


def test_without_tls_the_server_may_speak_first(programs: Programs, serving: Serving) -> None:
    """N-7: SMTP, SSH, XMPP."""

    def serve(stream: socket.socket) -> None:
        stream.sendall(b"220 mail.test ESMTP\r\n")
        assert exactly(stream, 11) == b"EHLO test\r\n"
        stream.sendall(b"250 ok\r\n")
        all_of(stream)

    service = Service(programs, [serving(serve)], 'proxy_protocol = "none"\n')
    with connect(service.port) as client:
        assert exactly(client, 21) == b"220 mail.test ESMTP\r\n"
        client.sendall(b"EHLO test\r\n")
        assert exactly(client, 8) == b"250 ok\r\n"
        client.shutdown(socket.SHUT_WR)
        assert all_of(client) == b""
    assert service.ended()["reason"] == "closed"


def test_an_idle_connection_is_closed(programs: Programs, serving: Serving, identities: Identities) -> None:
    """G-8: no byte in either direction for so long."""
    service = Service(programs, [serving(echo)], 'timeout = "1s"\n' + identities.tls)
    with identities.connect(service.port) as client:
        for _ in range(4):
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            threading.Event().wait(0.5)
        assert client.recv(1) == b""
    assert service.ended()["reason"] == "idle"


# -- A real protocol ----------------------------------------------------------------------------------------


def test_redis_goes_over_it(programs: Programs, identities: Identities, peer: Peer, tmp_path: Path) -> None:
    """G-9: redis-cli with a certificate, Debian's redis-server without any TLS."""
    cli, port = peer("redis-cli"), free_port()
    words = [peer("redis-server"), "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", tmp_path]
    programs.start(words, "redis").says("Ready to accept connections")
    listen = free_port()
    programs.rproxy(
        f'[l4.redis]\nlisten = "127.0.0.1:{listen}"\nupstream = [{{ location = "127.0.0.1:{port}" }}]\n'
        f"{GROUPS}{identities.tls}"
    )

    def ask(file: str, *command: str) -> str:
        at = identities.folder
        tls = ["--tls", "--cacert", at / "ca.pem", "--cert", at / f"{file}.pem", "--key", at / f"{file}.key"]
        done = run([cli, "-h", "127.0.0.1", "-p", listen, *tls, "--sni", "localhost", *command])
        return done.stdout + done.stderr

    assert ask("bob", "SET", "greeting", "hello") == "OK\n"
    assert ask("bob", "GET", "greeting") == "hello\n"
    value = "x" * MIB
    assert ask("bob", "EVAL", f"return redis.call('SET','big',string.rep('x',{MIB}))", "0") == "OK\n"
    assert ask("bob", "GET", "big") == value + "\n"
    assert "hello" not in ask("eve", "GET", "greeting")
