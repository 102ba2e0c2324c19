"""Attacks on the way into TLS: a hello that hides its name, a handshake that is broken off."""

from __future__ import annotations

import random
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.attackers import Answer, Stage, answers_of, ask, keys_of
from tests.e2e.peers import Certificate, self_signed
from tests.e2e.programs import Programs
from tests.e2e.streams import Backend, all_of, client_hello, connect, saying

GOODBYE = b"\x15\x03\x03\x00\x02\x01\x00"
"""The alert close_notify as whoever has no keys yet sends it."""
Cut = Callable[[bytes], list[bytes]]


@pytest.fixture(scope="module")
def fallback() -> Iterator[Backend]:
    """Where a hello goes whose name is not understood, if there is such a place."""
    made = Backend(saying(b"fallback"))
    yield made
    made.end()


@pytest.fixture(scope="module")
def special(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("special"), "special.test")


@pytest.fixture(scope="module")
def stage(
    lasting_programs: Programs, certificate: Certificate, special: Certificate, fallback: Backend
) -> Iterator[Stage]:
    more = (
        f'[apps.special]\nserver_name = "special.test"\n{keys_of(special)}'
        'reverse_proxy = [{ upstream = [{ location = "127.0.0.1:1" }] }]\n'
        f'[apps.rest]\nserver_name = "rest.test"\npassthrough = {{ upstream = [{fallback.location}] }}\n'
    )
    made = Stage(lasting_programs, certificate, general='default_passthrough = "rest"', more=more)
    yield made
    made.end()


def records(hello: bytes, *sizes: int) -> bytes:
    """The handshake message of a hello in records of these sizes, the last one again and again."""
    message, framed, left = hello[5:], b"", list(sizes)
    while message:
        size = left.pop(0) if len(left) > 1 else left[0]
        part, message = message[:size], message[size:]
        framed += hello[:3] + len(part).to_bytes(2, "big") + part
    return framed


def in_records(*sizes: int) -> Cut:
    return lambda hello: [records(hello, *sizes)]


def in_segments(size: int) -> Cut:
    return lambda hello: [hello[at : at + size] for at in range(0, len(hello), size)]


def around_the_name(hello: bytes) -> list[bytes]:
    """A record that ends inside the name, and a segment that ends inside the next one."""
    at = hello.index(b".test") - 5
    framed = records(hello, at, 2, 5000)
    return [framed[: at + 8], framed[at + 8 : at + 14], framed[at + 14 :]]


CUTS: dict[str, Cut] = {
    "whole": lambda hello: [hello],
    "records of 1 byte": in_records(1),
    "a record of 1 byte": in_records(1, 5000),
    "a record of the header": in_records(4, 5000),
    "records of 7": in_records(7),
    "records of 100": in_records(100),
    "segments of 3": in_segments(3),
    "segments of 200": in_segments(200),
    "segments and records": lambda hello: in_segments(50)(records(hello, 33)),
    "inside the name": around_the_name,
}


def shake_hands(port: int, name: str, cut: Cut, *, long: bool = False) -> tuple[bytes, Answer]:
    """The certificate that is shown to a client whose hello is cut so, and the answer that it gets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if long:  # as with keys of many kinds, or an encrypted hello inside
        context.set_alpn_protocols([*(f"{number:0>200}" for number in range(40)), "http/1.1"])
    got, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(got, out, server_hostname=name)
    with connect(port) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sent = out.read()
                send_apart(client, cut(sent) if sent[:1] == b"\x16" else [sent])
                got.write(client.recv(1 << 16) or GOODBYE)
        tls.write(ask(b"/x", b"Connection: close", host=name.encode()))
        client.sendall(out.read())
        (answer,) = answers_of(decrypted(client, tls, got))
        return tls.getpeercert(binary_form=True) or b"", answer


def decrypted(client: socket.socket, tls: ssl.SSLObject, got: ssl.MemoryBIO) -> bytes:
    """Everything until the other side says goodbye."""
    text = b""
    while True:
        try:
            if not (piece := tls.read(1 << 16)):
                return text
            text += piece
        except ssl.SSLWantReadError:
            got.write(client.recv(1 << 16))
        except ssl.SSLZeroReturnError:
            return text


def send_apart(client: socket.socket, pieces: list[bytes]) -> None:
    for number, piece in enumerate(pieces):
        client.sendall(piece)
        if number % 20 == 0:
            time.sleep(0.002)


def der_of(certificate: Certificate) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificate.certificate.read_text())


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_hello_in_pieces_finds_the_name_that_it_has(
    stage: Stage, certificate: Certificate, special: Certificate, fallback: Backend, cut: Cut, long: bool
) -> None:
    """However it is cut: never another app's certificate, never what is there for unknown names."""
    before = fallback.served
    shown, answer = shake_hands(stage.tls.port, "a.test", cut, long=long)
    assert (shown, answer.body) == (der_of(certificate), b"a.test /x")
    shown, answer = shake_hands(stage.tls.port, "special.test", cut, long=long)
    assert (shown, answer.status) == (der_of(special), 502)
    assert fallback.served == before


def test_a_hello_that_is_damaged_finds_nothing(stage: Stage, fallback: Backend) -> None:
    """Wrong lengths are no way to the place for unknown names."""
    hello, chance = client_hello("special.test"), random.Random(7)
    name = hello.index(b"special.test")
    lengths = [3, 4, 6, 7, 8, name - 7, name - 6, name - 5, name - 4, name - 2, name - 1]
    before = fallback.served
    for at in lengths:
        for wrong in {0, 1, 255, chance.randrange(256), hello[at] ^ 1} - {hello[at]}:
            with connect(stage.tls.port) as client:
                client.sendall(hello[:at] + bytes([wrong]) + hello[at + 1 :])
                client.shutdown(socket.SHUT_WR)
                answer = all_of(client)
            assert answer[:1] in (b"", b"\x15", b"\x16")  # a record may also be longer than its hello
            assert b"fallback" not in answer, (at, wrong)
    assert fallback.served == before
    stage.tls.neighbour()


# -- handshakes that are broken off


def test_a_goodbye_inside_a_handshake_is_no_traceback(tmp_path: Path, certificate: Certificate) -> None:
    """From a client at once, from one that has seen our certificate, and from an origin."""
    leaving = Backend(lambda stream: stream.sendall(GOODBYE))
    upstream = f'{{ location = "127.0.0.1:{leaving.port}", tls = true, tls_insecure = true }}'
    app = (
        f'[apps.t]\nserver_name = "c.test"\n{keys_of(certificate)}https_redirection = false\n'
        f"reverse_proxy = [{{ upstream = [{upstream}] }}]\n"
    )
    running = Programs(tmp_path)
    stage = Stage(running, certificate, more=app)
    try:
        with connect(stage.tls.port) as client:
            client.sendall(client_hello("a.test") + GOODBYE)
            all_of(client)
        with connect(stage.tls.port) as client:
            client.sendall(client_hello("a.test"))
            client.recv(1 << 16)
            client.sendall(GOODBYE)
            all_of(client)
        assert stage.clear.get(b"/", name="c.test").status == 502
        stage.tls.neighbour()
    finally:
        stage.end()
        leaving.end()
        running.end()  # fails if there is a traceback in the log
