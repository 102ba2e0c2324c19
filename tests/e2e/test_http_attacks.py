"""Attacks on where a request ends: its framing, bodies that nobody reads, expectations that are refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.attackers import SMUGGLED, Asked, Front, Stage, Talk, answers_of, ask, one_answer, reply, send
from tests.e2e.peers import Certificate
from tests.e2e.programs import Programs, until
from tests.e2e.streams import all_of
from tests.wire.ambiguous_bodies import CHUNKS, CODINGS, LENGTHS, Row
from tests.wire.ambiguous_heads import FIELDS, HOSTS, LINES

ROWS = {
    "lengths": LENGTHS,
    "codings": CODINGS,
    "chunks": CHUNKS,
    "fields": FIELDS,
    "hosts": HOSTS,
    "lines": LINES,
}
MOST_BODY = 50_000
REDIRECTING = '[apps.r]\nserver_name = "r.test"\n'


@pytest.fixture(scope="module")
def stage(lasting_programs: Programs, certificate: Certificate) -> Iterator[Stage]:
    redirecting = f'[apps.r]\nserver_name = "c.test"\ntls = {{ tls_cert_path = "{certificate.certificate}"'
    redirecting += f', tls_cert_key_path = "{certificate.key}" }}\n'
    redirecting += 'reverse_proxy = [{ upstream = [{ location = "127.0.0.1:1" }] }]\n'
    limit = f"request_max_body_size = {MOST_BODY}\n"
    made = Stage(lasting_programs, certificate, general=limit, more=redirecting)
    yield made
    made.end()


@pytest.fixture(params=["clear", "tls"])
def front(request: pytest.FixtureRequest, stage: Stage) -> Front:
    stage.forget()
    chosen: Front = stage.fronts[request.param]
    return chosen


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_a_request_with_two_meanings_has_none_and_harms_no_neighbour(
    stage: Stage, front: Front, rows: list[Row]
) -> None:
    for name, data, *verdicts in rows:
        if not isinstance(verdicts[-1], int):
            continue
        with front.connect("a") as client:
            client.sendall(ask(b"/first", host=b"a"))
            assert one_answer(client).status == 200  # now there is a connection that others will use
            send(client, data + SMUGGLED)
            answers = answers_of(all_of(client))
        assert answers[-1].status == verdicts[-1], name
        assert len(answers) == len(verdicts), name
        front.neighbour()
        assert b"smuggled" not in stage.a.raw, name
    assert stage.b.raw == b""


@pytest.mark.parametrize("kept", [b"close", b"keep-alive"])
def test_http_1_0_cannot_announce_chunks(stage: Stage, front: Front, kept: bytes) -> None:
    front.neighbour()
    head = (
        b"POST /old HTTP/1.0\r\nHost: a.test\r\nConnection: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % kept
    )
    (answer,) = front.say(head + b"0\r\n\r\n" + SMUGGLED)
    assert (answer.status, answer.all(b"connection")) == (400, [b"close"])
    front.neighbour()
    assert (b"/old" in stage.a.raw, b"smuggled" in stage.a.raw) == (False, False)


def test_an_old_request_has_no_body_that_lasts_until_the_close(stage: Stage, front: Front) -> None:
    (answer,) = front.say(b"POST /old HTTP/1.0\r\nHost: a.test\r\n\r\n" + SMUGGLED)
    assert (answer.status, answer.body) == (200, b"a.test /old")
    front.neighbour()
    seen = stage.a.last(b"/old")
    assert (seen.line, seen.body) == (b"POST /old HTTP/1.1", b"")
    assert seen.all(b"transfer-encoding") == seen.all(b"content-length") == seen.all(b"connection") == []
    assert b"smuggled" not in stage.a.raw


def test_extensions_end_here_and_trailers_that_frame_or_vouch_are_refused(stage: Stage, front: Front) -> None:
    head = ask(b"/chunks", b"Transfer-Encoding: chunked", b"Connection: close", method=b"POST")
    (answer,) = front.say(head + b'3;a;b="\\"c"\r\nabc\r\n00;d=e\r\nX-Sum: 1\r\n\r\n')
    assert answer.body == b"a.test /chunks"
    assert stage.a.last(b"/chunks").body == b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"
    for trailer in (
        b"Content-Length: 5",
        b"Host: b.test",
        b"X-Forwarded-For: 6.6.6.6",
        b"x_real_ip: 6.6.6.6",
    ):
        (answer,) = front.say(head + b"3\r\nabc\r\n0\r\n" + trailer + b"\r\n\r\n" + SMUGGLED)
        assert answer.status == 400, trailer
        front.neighbour()
    assert b"6.6.6.6" not in stage.a.raw
    assert b"smuggled" not in stage.a.raw


@pytest.mark.parametrize(
    "trailer", [b"X-SSL-Client-Verify: SUCCESS", b"X-Forwarded-Client-Cert: By=a", b"X-Forwarded-User: root"]
)
def test_trailers_claim_nothing_that_only_a_proxy_may_say(stage: Stage, front: Front, trailer: bytes) -> None:
    head = ask(b"/claims", b"Transfer-Encoding: chunked", b"Connection: close", method=b"POST")
    front.say(head + b"3\r\nabc\r\n0\r\n" + trailer + b"\r\n\r\n")
    assert trailer not in stage.a.raw


def length(body: bytes) -> bytes:
    return b"Content-Length: %d" % len(body)


REFUSED = {
    "unknown host": (ask(b"/", length(SMUGGLED), host=b"nobody.test", method=b"POST"), 404, 421),
    "TRACE": (ask(b"/", length(SMUGGLED), method=b"TRACE"), 405, 405),
    "odd path": (ask(b"/a/../b", length(SMUGGLED), method=b"POST"), 400, 400),
    "too large": (ask(b"/", b"Content-Length: %d" % (MOST_BODY + 1), method=b"POST"), 413, 413),
    "another app": (ask(b"/", length(SMUGGLED), host=b"c.test", method=b"POST"), 308, 421),
    "expectation": (ask(b"/", length(SMUGGLED), b"Expect: 200-ok", method=b"POST"), 417, 417),
    "expected": (ask(b"/", length(SMUGGLED), b"Expect: 100-continue", method=b"TRACE"), 405, 405),
}


@pytest.mark.parametrize("together", [True, False], ids=["with its head", "after the answer"])
@pytest.mark.parametrize("name", REFUSED)
def test_the_body_of_a_refused_request_is_never_the_next_one(
    stage: Stage, front: Front, name: str, together: bool
) -> None:
    data, in_clear, in_tls = REFUSED[name]
    with front.connect() as client:
        client.sendall(data + (SMUGGLED * 3 if together else b""))
        got = client.recv(1 << 16)
        send(client, SMUGGLED * 3)
        (answer,) = answers_of(got + all_of(client))
    assert (answer.status, answer.all(b"connection")) == (in_tls if front.secure else in_clear, [b"close"])
    front.neighbour()
    assert b"smuggled" not in stage.a.raw + stage.b.raw


# -- an origin that answers before, or without, reading the body


def early(status: bytes) -> bytes:
    return reply(b"early", status=status)


@pytest.mark.parametrize("fields", [[], [b"Expect: 100-continue"]], ids=["plain", "expecting"])
@pytest.mark.parametrize("status", [b"200 OK", b"417 Expectation Failed", b"401 Unauthorized"])
def test_an_answer_before_the_body_ends_both_connections(
    stage: Stage, front: Front, status: bytes, fields: list[bytes]
) -> None:
    stage.a.replies[b"/early"] = lambda talk, asked: talk.send(early(status))
    front.neighbour()
    with front.connect() as client:
        client.sendall(ask(b"/early", length(SMUGGLED), *fields, method=b"PUT"))
        got = client.recv(1 << 16)
        send(client, SMUGGLED * 2)
        (answer,) = answers_of(got + all_of(client))
    assert (answer.body, answer.all(b"connection")) == (b"early", [b"close"])
    front.neighbour()
    assert b"smuggled" not in stage.a.raw
    assert stage.a.asked[-1].number == 0, "what has half a request is used for nobody else"


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE", b"POST"])
def test_an_origin_that_takes_a_body_for_a_request_poisons_nobody(
    stage: Stage, front: Front, method: bytes
) -> None:
    def twice(talk: Talk, asked: Asked) -> None:
        assert talk.buffer or talk.more()
        assert talk.head() is not None  # believes that there is no body
        first = reply(b"" if method == b"HEAD" else b"first")
        talk.send(first + reply(b"poison"))

    stage.a.replies[b"/no-body"] = twice
    front.neighbour()
    data = ask(b"/no-body", length(SMUGGLED), b"Connection: close", method=method) + SMUGGLED
    (answer,) = front.say(data, head=method == b"HEAD")
    assert b"poison" not in answer.body
    for _ in range(3):
        front.neighbour()
    assert stage.a.asked[-1].number in (1, 2), "the neighbours share another connection"


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_the_answer_to_a_body_is_not_that_to_the_next_client(
    stage: Stage, front: Front, method: bytes
) -> None:
    """An origin that believes in no body of a GET answers it as a request, when it likes."""

    def late(talk: Talk, asked: Asked) -> None:
        talk.more(3)  # until there is another request that this could be the answer to
        talk.send(reply(b"poison"))

    until(lambda: not stage.a.open, "the end of what others have poisoned")
    first = reply(b"" if method == b"HEAD" else b"first")
    stage.a.replies[b"/no-body"] = lambda talk, asked: talk.send(first)
    stage.a.replies[b"/smuggled"] = late
    (answer,) = front.say(
        ask(b"/no-body", length(SMUGGLED), b"Connection: close", method=method) + SMUGGLED,
        head=method == b"HEAD",
    )
    assert b"poison" not in answer.body
    front.neighbour()
