"""Attacks on who asks and what for: forged fields, spellings of hosts and paths, what is logged and kept."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import pytest

from tests.e2e.attackers import SMUGGLED, Asked, Front, Stage, ask, keys_of
from tests.e2e.peers import Certificate
from tests.e2e.programs import Programs

MANY = 500


@pytest.fixture(scope="module")
def stage(lasting_programs: Programs, certificate: Certificate) -> Iterator[Stage]:
    nowhere = 'reverse_proxy = [{ upstream = [{ location = "127.0.0.1:1" }] }]\n'
    redirecting = f'[apps.r]\nserver_name = ["c.test", "*.c.test"]\n{keys_of(certificate)}{nowhere}'
    rules = 'request_headers = { set = { X-Auth-User = "nobody" }, remove = ["X-Internal"] }'
    made = Stage(lasting_programs, certificate, general='default_app = "r"', app=rules, more=redirecting)
    yield made
    made.end()


@pytest.fixture(params=["clear", "tls"])
def front(request: pytest.FixtureRequest, stage: Stage) -> Front:
    stage.forget()
    chosen: Front = stage.fronts[request.param]
    return chosen


def seen_by(stage: Stage, front: Front, path: bytes, *fields: bytes, method: bytes = b"GET") -> Asked | None:
    """What an origin gets of a request, None if nothing."""
    stage.forget()
    front.say(ask(path, b"Connection: close", *fields, method=method))
    return stage.a.asked[-1] if path in stage.a.targets else None


# -- forged fields

FORGED = [
    b"X-Forwarded-For: 6.6.6.6",
    b"x-forwarded-FOR: 6.6.6.6, 127.0.0.1",
    b"X-Real-IP: 6.6.6.6",
    b"Forwarded: for=6.6.6.6;proto=https;host=evil.test",
    b"X-Forwarded-Proto: gopher",
    b"X-Forwarded-Host: evil.test",
    b"X-Forwarded-Port: 6666",
    b"X-Forwarded-Ssl: maybe",
    b"X-Forwarded-Server: evil.test",
    b"X-Forwarded-Prefix: /evil.test",
    b"X-Original-URI: /evil.test",
    b"X-Original-URL: /evil.test",
    b"X-Rewrite-URL: /evil.test",
    b"X-SSL-Client-Verify: 6.6.6.6",
    b"X-Client-Cert: 6.6.6.6",
    b"X-Forwarded-Client-Cert: By=6.6.6.6",
    b"Proxy: http://evil.test/",
    b"pRoXy: http://evil.test/",
]
OURS = {
    b"x-forwarded-for": b"127.0.0.1",
    b"x-real-ip": b"127.0.0.1",
    b"x-forwarded-host": b"a.test",
    b"x-original-uri": b"/forged",
    b"host": b"a.test",
}
HOSTILE = re.compile(rb"6\.6\.6\.6|6666|evil|gopher|maybe")


@pytest.mark.parametrize("hidden", [False, True], ids=["plain", "named in Connection"])
@pytest.mark.parametrize("field", FORGED)
def test_what_a_stranger_says_about_itself_is_replaced(
    stage: Stage, front: Front, field: bytes, hidden: bool
) -> None:
    """Ours are added behind the removal of what Connection names: naming them takes nothing away."""
    names = (
        b"Connection: x-forwarded-for, x-forwarded-proto, X-Real-IP, x-original-uri, host, x-forwarded-host"
    )
    seen = seen_by(stage, front, b"/forged", field, *([names] if hidden else []))
    assert seen is not None
    assert not [pair for pair in seen.fields if HOSTILE.search(pair[1])]
    assert {name: seen.all(name) for name in OURS} == {name: [value] for name, value in OURS.items()}
    assert seen.all(b"x-forwarded-proto") == [b"https" if front.secure else b"http"]
    assert seen.all(b"x-forwarded-port") == [b"%d" % front.port]
    assert seen.all(b"proxy") == []


TWINS = [b"X_Forwarded_For", b"X-Forwarded_For", b"x_real_ip", b"X_FORWARDED_PROTO", b"X.Forwarded.For"]
TWINS += [b"Content_Length", b"Transfer_Encoding", b"X~Forwarded~For", b"x_forwarded_host", b"Content.Length"]


@pytest.mark.parametrize("name", TWINS)
def test_names_that_become_others_behind_cgi_reach_no_origin(stage: Stage, front: Front, name: bytes) -> None:
    (answer,) = front.say(ask(b"/twin", name + b": 6") + SMUGGLED)
    assert answer.status == 400
    front.neighbour()
    assert (b"/twin" in stage.a.raw, b"smuggled" in stage.a.raw) == (False, False)


@pytest.mark.parametrize("name", [b"X_Auth_User", b"X-Auth_User", b"x_internal"])
def test_a_name_that_rules_speak_of_has_no_twins(stage: Stage, front: Front, name: bytes) -> None:
    front.say(ask(b"/ruled", b"Connection: close", name + b": root"))
    assert b"root" not in stage.a.raw


@pytest.mark.parametrize("method", [b"TRACE", b"TRACK"])
def test_nobody_is_shown_what_we_add(stage: Stage, front: Front, method: bytes) -> None:
    (answer,) = front.say(ask(b"/trace", b"Connection: close", b"Cookie: secret", method=method))
    assert answer.status == (405 if method == b"TRACE" else 200)
    assert (b"TRACE" in stage.a.raw, b"secret" in answer.body) == (False, False)


def test_max_forwards_counts_us(stage: Stage, front: Front) -> None:
    seen = seen_by(stage, front, b"/counted", b"Max-Forwards: 3", method=b"OPTIONS")
    assert seen is not None
    assert seen.all(b"max-forwards") == [b"2"]
    assert seen_by(stage, front, b"/last", b"Max-Forwards: 0", method=b"OPTIONS") is None


# -- hosts and paths

SAME = [b"a.test", b"A.TEST", b"a.Test", b"a.test:80", b"A.test:65535"]
OTHER = [
    b"aa.test",
    b"a.test.evil",
    b"evil-a.test",
    b"test",
    b"127.0.0.1",
    b"xn--a.test",
    b"a.test.",
    b"_.a.test",
]


def test_many_hosts_answer_as_one_does(programs: Programs, certificate: Certificate) -> None:
    """The same spellings lead to the same place in a table of 1 host and in one of 500."""
    more = "".join(
        f'[apps.n{number}]\nserver_name = "host{number}.test"\n'
        'reverse_proxy = [{ upstream = [{ location = "127.0.0.1:1" }] }]\n'
        for number in range(MANY)
    )
    stages = [Stage(programs, certificate), Stage(programs, certificate, more=more)]
    for kind in ("clear", "tls"):
        small, large = (
            {host: answer_for(stage.fronts[kind], host) for host in (*SAME, *OTHER)} for stage in stages
        )
        assert small == large
        assert [small[host] for host in SAME] == [(200, b"a.test /x")] * len(SAME)
        unknown = 421 if kind == "tls" else 404
        assert [small[host][0] for host in OTHER] == [unknown] * len(OTHER)
    for stage in stages:
        stage.end()


def answer_for(front: Front, host: bytes) -> tuple[int, bytes]:
    (answer,) = front.say(ask(b"/x", b"Connection: close", host=host))
    return answer.status, answer.body if answer.status == 200 else b""


REFUSED_PATHS = [b"/..", b"/a/../b", b"/a/%2e%2e/b", b"/a/.%2E/b", b"/a/..;/b", b"/a/..%2fb", b"/a%2f..%2fb"]
REFUSED_PATHS += [
    b"/a/./b",
    b"/a/%2e/b",
    b"/a\\..\\b",
    b"/a\\b",
    b"/a/..%5cb",
    b"/a%00b",
    b"/a#b",
    b"/a/..?b",
]
REFUSED_PATHS += [b"http://b.test/a", b"http://a.test@b.test/a", b"//a/../b", b"a/b", b"/a b", b"/\xc3\xa4"]
KEPT_PATHS = [b"//a", b"/a//b", b"/a;b=c/d", b"/a%2fb", b"/a%5cb", b"/%61", b"/a/...", b"/a..b", b"/a?../b"]
KEPT_PATHS += [b"/a?b=%00", b"/%252e%252e/a", b"/a?\\", b"/a%3fb", b"/?", b"/a/b/?c/../d", b"/a/%e4", b"/A"]


def test_a_path_that_can_be_read_as_another_is_refused(stage: Stage, front: Front) -> None:
    for path in REFUSED_PATHS:
        answers = front.say(ask(path, b"Connection: close"))
        assert [answer.status for answer in answers] == [400], path
    front.neighbour()
    assert len(stage.a.asked) == 1
    assert stage.b.raw == b""


def test_any_other_path_goes_on_byte_for_byte(stage: Stage, front: Front) -> None:
    for path in KEPT_PATHS:
        answer = front.get(path)
        assert (answer.status, answer.body) == (200, b"a.test " + path)
    scheme = b"https" if front.secure else b"http"
    (answer,) = front.say(ask(scheme + b"://A.test/x?y", b"Connection: close"))
    assert answer.body == b"a.test /x?y"
    assert stage.a.last(b"/x?y").all(b"host") == [b"A.test"]


# -- response splitting

BROKEN = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b"\x85",
    b"\xe5\x98\x8a",
    b"\x0b",
    b"\r\n\r\n",
    b"\t",
    b" ",
    b"#",
    b"\\r\\n",
]
WHOLE = [
    b"%0d%0a",
    b"%0D%0ASet-Cookie:%20a=b",
    b"%E5%98%8A",
    b"?",
    b"'\"",
    b"<script>",
    b"//evil.test",
    b"@",
    b"%250a",
]


def piece(chance: random.Random) -> bytes:
    """Something that ends a line, or that a sloppy reader takes for a line's end."""
    return chance.choice(BROKEN if chance.random() < 0.15 else WHOLE)


def test_nothing_in_a_request_makes_two_answers_of_one(stage: Stage) -> None:
    """Redirects are built of Host and path: whatever is in them, one Location comes, and it leads to us."""
    chance = random.Random(5)
    place = b"https://((?:[a-z0-9-]+\\.)?c\\.test)(:%d)?(/[!-~]*)" % stage.tls.port
    moved = 0
    for _ in range(300):
        path, host = b"/", chance.choice([b"c.test", b"x.c.test", b"unknown.test"])
        for _ in range(chance.randrange(1, 4)):
            path += piece(chance) + bytes(chance.choices(b"ab/%", k=2))
        if chance.random() < 0.3:
            host += chance.choice(BROKEN) + b"b"
        answers = stage.clear.say(ask(path, b"Connection: close", host=host))
        (answer,) = answers[:1]
        assert all(each.status == 400 for each in answers[1:]), (path, host)
        assert answer.status in (301, 400), (path, host)
        assert answer.all(b"set-cookie") == []
        locations = answer.all(b"location")
        assert len(locations) == (answer.status == 301)
        assert all(re.fullmatch(place, location) for location in locations), locations
        moved += answer.status == 301
    assert 50 < moved < 250


def test_nothing_in_a_request_makes_two_requests_of_one(stage: Stage, front: Front) -> None:
    """Host and target go on in several of our fields."""
    chance = random.Random(6)
    for _ in range(150):
        path, host = b"/", b"a.test"
        for _ in range(2):
            path += piece(chance) + b"a"
        if chance.random() < 0.2:
            host += chance.choice(BROKEN)
        front.say(ask(path, b"Connection: close", b"Cookie: a=" + piece(chance), host=host))
    front.neighbour()
    names = {b"host", b"cookie", b"x-forwarded-for", b"x-real-ip", b"x-forwarded-proto", b"x-forwarded-port"}
    names |= {b"x-forwarded-ssl", b"x-forwarded-host", b"x-original-uri", b"x-auth-user"}
    assert len(stage.a.asked) > 20
    for asked in stage.a.asked:
        assert {name.lower() for name, _ in asked.fields} <= names
        assert asked.all(b"x-original-uri") == [asked.target]
        assert asked.all(b"host") == [b"a.test"]
