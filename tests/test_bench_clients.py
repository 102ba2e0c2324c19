"""The benchmark's own clients: one at a fixed rate, which is a C program, and one with a certificate."""

import shutil
import socket
import ssl
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"
sys.path.append(str(BENCH))

import certificates  # noqa: E402
import mutual  # noqa: E402
from figures import Trouble  # noqa: E402
from loads import Errand  # noqa: E402
from paced import build, paced  # noqa: E402

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n"
STALL = 0.3


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    return build(tmp_path_factory.mktemp("paced"))


@pytest.fixture
def serving():
    """A server whose every connection is served by a function, in a thread."""
    listening = socket.create_server(("127.0.0.1", 0))

    def start(serve) -> int:
        def accept() -> None:
            while True:
                try:
                    stream, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(stream,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return int(listening.getsockname()[1])

    yield start
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def answering(*answers: bytes):
    """Answers the requests of a connection with these, one after the other, then with the last of them."""

    def serve(stream: socket.socket) -> None:
        number = 0
        with stream, suppress(ConnectionResetError):
            while stream.recv(1000):
                stream.sendall(answers[min(number, len(answers) - 1)])
                number += 1

    return serve


def test_every_request_is_sent_and_its_time_is_told(program, serving):
    outcome = paced(program, serving(answering(OK)), 200, 0.5, 4)
    assert len(outcome.latencies) == 100
    assert 0 < min(outcome.latencies) < max(outcome.latencies) < 5000
    assert 0 < len(outcome.lateness) <= 100


def test_requests_leave_at_the_rate(program, serving):
    began = time.monotonic()
    paced(program, serving(answering(OK)), 100, 0.5, 2)
    assert 0.49 < time.monotonic() - began < 5


def test_what_waits_behind_a_stalled_answer_counts_from_when_it_was_meant_to_leave(program, serving):
    def serve(stream: socket.socket) -> None:
        number = 0
        with stream:
            while stream.recv(1000):
                if number == 10:
                    time.sleep(STALL)
                stream.sendall(OK)
                number += 1

    outcome = paced(program, serving(serve), 100, 0.8, 1)
    assert len(outcome.latencies) == 80
    assert sum(latency > STALL * 1000 / 2 for latency in outcome.latencies) >= 14
    assert len(outcome.lateness) <= 80 - 25  # those that found no connection are not the client's fault


def test_a_request_goes_to_another_connection_while_one_is_stalled(program, serving):
    def serve(stream: socket.socket) -> None:
        with stream:
            while stream.recv(1000):
                if not lock.locked():
                    with lock:
                        time.sleep(STALL)
                stream.sendall(OK)

    lock = threading.Lock()
    outcome = paced(program, serving(serve), 100, 0.5, 4)
    assert sum(latency > STALL * 1000 / 2 for latency in outcome.latencies) < 10


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (OK.replace(b"200", b"502"), "502"),
        (OK.replace(b"200", b"301"), "301"),
        (OK.replace(b"Content-Length: 6", b"Transfer-Encoding: chunked"), "Content-Length"),
        (OK + b"x", "more bytes"),
        (OK.replace(b"6", b"9000") + b"x" * 10000, "more bytes"),
    ],
)
def test_any_other_answer_fails_the_round(program, serving, answer, why):
    with pytest.raises(Trouble, match=why):
        paced(program, serving(answering(OK, OK, answer)), 100, 0.5, 1)


def test_a_connection_that_closes_fails_the_round(program, serving):
    def serve(stream: socket.socket) -> None:
        with stream:
            for _ in range(3):
                stream.recv(1000)
                stream.sendall(OK)

    with pytest.raises(Trouble, match="closed"):
        paced(program, serving(serve), 100, 0.5, 1)


def test_an_answer_in_pieces_is_one_answer_and_is_there_with_its_last_byte(program, serving):
    def serve(stream: socket.socket) -> None:
        with stream:
            while stream.recv(1000):
                for piece in (OK[:9], OK[9:-6], OK[-6:]):
                    time.sleep(0.01)
                    stream.sendall(piece)

    outcome = paced(program, serving(serve), 20, 0.5, 1)
    assert len(outcome.latencies) == 10
    assert min(outcome.latencies) >= 30


# -- With a certificate --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    made = tmp_path_factory.mktemp("certificates")
    certificates.make(made)
    return made


def secured(folder: Path, authority: str, seen: list[str], answer: bytes):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(folder / authority)

    def serve(plain: socket.socket) -> None:
        plain.settimeout(0.5)  # a client that waits for more than this says is told that there is none
        try:
            with context.wrap_socket(plain, server_side=True) as stream:
                seen.append(dict(field[0] for field in stream.getpeercert()["subject"])["commonName"])
                stream.recv(1000)
                stream.sendall(answer)
                stream.recv(1000)
                stream.unwrap()
        except OSError:
            plain.close()

    return serve


def load(folder: Path, port: int) -> float:
    return mutual.connections(1)(Errand(f"https://localhost:{port}/", 1, folder))


def test_a_connection_counts_when_the_certificate_was_taken_and_the_answer_came(folder, serving):
    seen: list[str] = []
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n"
    count = load(folder, serving(secured(folder, "ca.pem", seen, answer)))
    assert count == len(seen) > 0
    assert set(seen) == {certificates.CLIENT}


@pytest.mark.parametrize(
    ("authority", "answer"), [("cert.pem", OK), ("ca.pem", OK.replace(b"200", b"502")), ("ca.pem", b"")]
)
def test_a_connection_that_was_refused_or_answered_otherwise_fails_the_round(
    folder, serving, authority, answer
):
    with pytest.raises(Trouble):
        load(folder, serving(secured(folder, authority, [], answer)))
