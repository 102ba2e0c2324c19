"""Origins that lie, or die: what they send must not become another client's answer, or be asked for twice."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.attackers import Asked, Front, Reply, Stage, Talk, answers_of, ask, keys_of, reply
from tests.e2e.peers import Certificate, self_signed
from tests.e2e.programs import Programs, until
from tests.e2e.streams import Backend, all_of, reset

MOST_INTERIM = 16


@pytest.fixture(scope="module")
def stage(lasting_programs: Programs, certificate: Certificate) -> Iterator[Stage]:
    made = Stage(lasting_programs, certificate)
    yield made
    made.end()


@pytest.fixture(params=["clear", "tls"])
def front(request: pytest.FixtureRequest, stage: Stage) -> Front:
    stage.forget()
    chosen: Front = stage.fronts[request.param]
    return chosen


def say(*data: bytes, pause: float = 0.0) -> Reply:
    """Answer with these, one after another."""

    def serve(talk: Talk, asked: Asked) -> None:
        for piece in data:
            talk.send(piece)
            time.sleep(pause)

    return serve


# -- responses with two meanings

POISON = reply(b"poison", b"X-Poison: 1")
H = b"HTTP/1.1 200 OK\r\n"
BAD = {
    "length and chunked": H + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": H + b"Content-Length: 0\r\nContent-Length: 6\r\n\r\n",
    "list of lengths": H + b"Content-Length: 0, 6\r\n\r\n",
    "signed length": H + b"Content-Length: +0\r\n\r\n",
    "length of 20 digits": H + b"Content-Length: 18446744073709551616\r\n\r\n",
    "chunked twice": H + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "unknown coding": H + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "bare LF in a value": H + b"A: b\nSet-Cookie: poison\r\nContent-Length: 0\r\n\r\n",
    "bare CR in a value": H + b"A: b\rSet-Cookie: poison\r\nContent-Length: 0\r\n\r\n",
    "NUL in a value": H + b"A: \0\r\nContent-Length: 0\r\n\r\n",
    "fold": H + b"A: b\r\n poison: 1\r\nContent-Length: 0\r\n\r\n",
    "space before colon": H + b"Content-Length : 6\r\n\r\n",
    "empty name": H + b": b\r\nContent-Length: 0\r\n\r\n",
    "CR in the reason": b"HTTP/1.1 200 OK\rX: poison\r\nContent-Length: 0\r\n\r\n",
    "chunks in 1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "204 with length": b"HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\n",
    "204 with chunks": b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "103 with length": b"HTTP/1.1 103 Early Hints\r\nContent-Length: 6\r\n\r\n",
    "version 2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "version 0.9": b"poison\r\n",
    "status of 2 digits": b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
    "129 fields": H + b"A: b\r\n" * 129 + b"Content-Length: 0\r\n\r\n",
    "64 KiB of head": H + b"A: %b\r\n" % (b"b" * 8000) * 9 + b"Content-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD)
def test_an_answer_with_two_meanings_is_none(stage: Stage, front: Front, name: str) -> None:
    stage.a.replies[b"/bad"] = say(BAD[name] + POISON)
    front.neighbour()
    (answer,) = front.say(ask(b"/bad", b"Connection: close"))
    assert (answer.status, answer.all(b"x-poison"), answer.all(b"set-cookie")) == (502, [], [])
    assert b"poison" not in answer.body
    front.neighbour()
    assert stage.a.asked[-1].number == 0, "the connection is used for nobody else"


EXTRA = {
    "a second answer": (reply(b"ok"), b"GET"),
    "behind HEAD": (reply(b"")[:-2].replace(b": 0", b": 6") + b"\r\n", b"HEAD"),
    "behind 204": (b"HTTP/1.1 204 No Content\r\n\r\n", b"GET"),
    "behind 304": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n", b"GET"),
    "behind the last chunk": (H + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"GET"),
}


@pytest.mark.parametrize("pause", [0.0, 0.03], ids=["at once", "later"])
@pytest.mark.parametrize("name", EXTRA)
def test_what_comes_behind_an_answer_is_nobodys(stage: Stage, front: Front, name: str, pause: float) -> None:
    good, method = EXTRA[name]
    stage.a.replies[b"/extra"] = say(good, POISON, pause=pause) if pause else say(good + POISON)
    front.neighbour()
    data = ask(b"/extra", b"Connection: close", method=method)
    (answer,) = front.say(data, head=method == b"HEAD")
    assert (answer.status < 400, b"poison" in answer.body, answer.all(b"x-poison")) == (True, False, [])
    until(lambda: not stage.a.open, "the connection is closed")
    front.neighbour()
    assert stage.a.asked[-1].number == 0


@pytest.mark.parametrize(
    "fault", [b"zz\r\npoison", b"2\r\nokpoison", b"-1\r\n", b"0\r\nSet-Cookie: a=b\r\n\r\n"]
)
def test_a_body_that_breaks_in_the_middle_is_not_whole(stage: Stage, front: Front, fault: bytes) -> None:
    head = H + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"
    stage.a.replies[b"/broken"] = say(head, fault + POISON, pause=0.02)
    (answer,) = front.say(ask(b"/broken"))
    assert (answer.status, answer.complete, b"poison" in answer.body) == (200, False, False)
    front.neighbour()


# -- interim responses

HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"


@pytest.mark.parametrize("kind", [HINTS, b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 199 x\r\n\r\n"])
def test_interim_answers_without_end_have_one(stage: Stage, front: Front, kind: bytes) -> None:
    sent: list[int] = []

    def flood(talk: Talk, asked: Asked) -> None:
        for number in range(100_000):
            sent[:] = [number]
            talk.send(kind * 10)

    stage.a.replies[b"/flood"] = flood
    answers = front.say(ask(b"/flood", b"Connection: close"))
    assert answers[-1].status == 502
    assert len(answers) <= MOST_INTERIM + 1
    until(lambda: not stage.a.open, "the flood is cut off")
    assert sent[0] < 90_000
    front.neighbour()


def test_as_many_interim_answers_as_are_allowed_arrive(stage: Stage, front: Front) -> None:
    stage.a.replies[b"/hints"] = say(HINTS * MOST_INTERIM + reply(b"done"))
    *hints, answer = front.say(ask(b"/hints", b"Connection: close"))
    assert ([hint.status for hint in hints], answer.body) == ([103] * MOST_INTERIM, b"done")


# -- origins that die

FORM = b"Content-Length: 4"
ONCE = {
    "POST": ask(b"/dies", FORM, method=b"POST") + b"form",
    "empty POST": ask(b"/dies", b"Content-Length: 0", method=b"POST"),
    "chunked POST": ask(b"/dies", b"Transfer-Encoding: chunked", method=b"POST") + b"4\r\nform\r\n0\r\n\r\n",
    "PATCH": ask(b"/dies", FORM, method=b"PATCH") + b"form",
    "QUERY": ask(b"/dies", method=b"QUERY"),
    "PUT with a body": ask(b"/dies", FORM, method=b"PUT") + b"form",
    "lower-case get": ask(b"/dies", method=b"get"),
}


def dying(how: Callable[[socket.socket], object], first: bytes = b"") -> Reply:
    """Take the whole request, and go without an answer, or with half of one."""

    def serve(talk: Talk, asked: Asked) -> None:
        talk.read_body(asked)
        if first:
            talk.send(first)
            time.sleep(0.02)
        how(talk.stream)

    return serve


@pytest.mark.parametrize("how", [socket.socket.close, reset], ids=["closes", "resets"])
@pytest.mark.parametrize("name", ONCE)
def test_what_may_have_happened_is_not_asked_for_again(
    stage: Stage, front: Front, name: str, how: Callable[[socket.socket], object]
) -> None:
    stage.a.replies[b"/dies"] = dying(how)
    front.neighbour()  # so that the connection is one that may have been idle for too long
    with front.connect() as client:
        client.sendall(ONCE[name])
        client.sendall(ask(b"/next", b"Connection: close"))
        answers = answers_of(all_of(client))
    assert [answer.status for answer in answers] == [502, 200]
    assert stage.a.targets.count(b"/dies") == 1
    assert stage.a.last(b"/dies").number > 0, "it was a reused connection"


def test_a_get_is_asked_for_once_more_if_its_connection_was_an_old_one(stage: Stage, front: Front) -> None:
    stage.a.replies[b"/old"] = lambda talk, asked: (
        talk.stream.close() if asked.number else stage.a.answer(talk, asked)
    )
    front.neighbour()
    answer = front.get(b"/old")
    assert (answer.status, answer.body) == (200, b"a.test /old")
    assert stage.a.targets.count(b"/old") == 2


def test_a_get_that_kills_its_origin_does_not_kill_it_again_and_again(stage: Stage, front: Front) -> None:
    stage.a.replies[b"/kills"] = dying(socket.socket.close)
    front.neighbour()
    assert front.get(b"/kills").status == 502
    assert stage.a.targets.count(b"/kills") <= 2


@pytest.mark.parametrize("first", [b"H", b"HTTP/1.1 200 OK\r\nA: b\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_nothing_is_asked_for_again_once_an_answer_has_begun(
    stage: Stage, front: Front, first: bytes
) -> None:
    stage.a.replies[b"/half"] = dying(socket.socket.close, first)
    front.neighbour()
    answers = front.say(ask(b"/half", b"Connection: close"))
    assert answers[-1].status == 502
    assert stage.a.targets.count(b"/half") == 1


# -- origins behind TLS that are somebody else

INJECTED = reply(b"injected")


class Impostor:
    """Somebody on the way to an origin: speaks in clear before TLS, or with a certificate of its own."""

    def __init__(self, certificate: Certificate, injected: bytes = b"") -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate.certificate, certificate.key)
        self._injected, self._lock = injected, threading.Lock()
        self.secrets: list[bytes] = []
        self.backend = Backend(self._serve)

    def _serve(self, stream: socket.socket) -> None:
        if self._injected:
            stream.sendall(self._injected)
        try:
            with self._context.wrap_socket(stream, server_side=True) as inner:
                got = inner.recv(1 << 16)
                self.secrets += [got] if got else []
                inner.sendall(reply(b"impostor", b"Connection: close"))
        except ssl.SSLError:
            return

    def upstream(self, authority: Certificate, name: str) -> str:
        return (
            f'[{{ location = "127.0.0.1:{self.backend.port}", tls = true, tls_server_name = "{name}",'
            f' tls_ca_path = "{authority.certificate}" }}]'
        )


@pytest.fixture
def other(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("other"), "a.test", "evil.test")


def test_no_origin_is_believed_before_it_has_shown_who_it_is(
    programs: Programs, certificate: Certificate, other: Certificate
) -> None:
    cases = {
        "/injected": (Impostor(certificate, INJECTED), certificate, "a.test"),
        "/name": (Impostor(certificate), certificate, "other.test"),
        "/authority": (Impostor(other), certificate, "a.test"),
        "/good": (Impostor(certificate), certificate, "a.test"),
    }
    entries = "".join(
        f'[[apps.t.reverse_proxy]]\npath = "{path}"\nupstream = {impostor.upstream(authority, name)}\n'
        for path, (impostor, authority, name) in cases.items()
    )
    app = f'[apps.t]\nserver_name = "c.test"\n{keys_of(certificate)}https_redirection = false\n{entries}'
    stage = Stage(programs, certificate, more=app)
    for front in stage.fronts.values():
        for path, (impostor, _, _) in cases.items():
            answer = front.get(path.encode(), b"Cookie: secret", name="c.test")
            good = path == "/good"
            assert (answer.status, answer.body == b"impostor") == ((200, True) if good else (502, False)), (
                path
            )
            assert b"injected" not in answer.body
            assert bool(impostor.secrets) is good, "nothing of the request is shown to anybody else"
    stage.end()
    for impostor, _, _ in cases.values():
        impostor.backend.end()
