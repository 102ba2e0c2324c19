"""What backends are told, by upstream_options and in forwarding fields, as rpxy's users know it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Peer
from tests.e2e.peers import self_signed
from tests.e2e.programs import Programs
from tests.e2e.streams import Backend
from tests.e2e.test_rpxy_examples import Answer, Front, refusal, showing

HEAD = """\
listen_port = 80
listen_port_tls = 443
trusted_forwarded_proxies = ["127.0.0.7/32", "cloudflare"]

[apps]
"""
APP = """
[apps.NAME]
server_name = 'NAME.example.com'
tls = { https_redirection = false, tls_cert_path = './server.crt', tls_cert_key_path = './server.key' }

[[apps.NAME.reverse_proxy]]
upstream = [{ location = 'www.example.net' }]
upstream_options = [
  OPTIONS,   # with a comma and a comment behind it
]
"""
OPTIONS = {
    "kept": '"keep_original_host"',
    "changed": '"set_upstream_host"',
    "both": '"set_upstream_host", "keep_original_host"',
    "insecure": '"upgrade_insecure_requests"',
    "http11": '"force_http11_upstream"',
    "forwarded": '"forwarded_header"',
}
"""Names of apps, and their upstream_options."""
TRUSTED = ("--interface", "127.0.0.7")
STRANGER = ("--interface", "127.0.0.8")
FIELDS = 'Server: backend\r\nAlt-Svc: h3=":443"\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-Other: kept\r\n'


def example(name: str, options: str) -> str:
    return APP.replace("NAME", name).replace("OPTIONS", options)


class Shared(Front):
    """One proxy for all tests of this file; `location` is its backend."""

    location: str

    def ask(self, name: str, *more: object, path: str = "/", scheme: str = "http") -> Answer:
        """A request for an app, with these words for curl; a word with a colon is a field."""
        words = [word for each in more for word in (("--header", each) if ": " in str(each) else (each,))]
        return self.get(f"{scheme}://{name}.example.com{path}", *words)


@pytest.fixture(scope="module")
def front(lasting_programs: Programs, peer: Peer) -> Iterator[Shared]:
    self_signed(lasting_programs.folder, *(f"{name}.example.com" for name in OPTIONS))
    backend = Backend(showing("net", FIELDS))
    location = f"127.0.0.1:{backend.port}"
    text = HEAD + "".join(example(*each) for each in OPTIONS.items())
    shared = Shared(lasting_programs, peer, text, {"www.example.net": location})
    shared.location = location
    yield shared
    backend.end()


@pytest.mark.parametrize("name", OPTIONS)
def test_host_is_the_clients_unless_the_upstreams_is_wanted(front: Shared, name: str) -> None:
    asked = front.ask(name)
    assert asked.seen("Host") == [front.location if name == "changed" else f"{name}.example.com"]
    assert asked.seen("X-Forwarded-Host") == [f"{name}.example.com"]
    with_port = front.ask(name, f"Host: {name}.example.com:8080")
    assert with_port.seen("X-Forwarded-Host") == [f"{name}.example.com:8080"]


def test_upgrade_insecure_requests_is_asked_for_once(front: Shared) -> None:
    field = "Upgrade-Insecure-Requests"
    assert front.ask("insecure").seen(field) == ["1"]
    assert front.ask("insecure", f"{field}: 1").seen(field) == ["1"]
    assert front.ask("kept").seen(field) == []
    assert front.ask("kept", f"{field}: 1").seen(field) == ["1"]


def test_backends_are_asked_in_http_1_1(front: Shared) -> None:
    for words in (("--http1.0",), ()):
        assert front.ask("http11", *words).asked == "GET / HTTP/1.1"
    assert front.ask("http11", scheme="https").asked == "GET / HTTP/1.1"


def test_forwarded_is_written_where_it_is_wanted_or_was_sent(front: Shared) -> None:
    for scheme in ("http", "https"):
        written = [f"for=127.0.0.1;proto={scheme};host=forwarded.example.com"]
        assert front.ask("forwarded", scheme=scheme).seen("Forwarded") == written
    false = "Forwarded: for=6.6.6.6;proto=https"
    assert front.ask("kept").seen("Forwarded") == []
    for name in ("forwarded", "kept"):
        expected = [f"for=127.0.0.8;proto=http;host={name}.example.com"]
        assert front.ask(name, *STRANGER, false).seen("Forwarded") == expected


FALSE = (
    *("X-Forwarded-For: 6.6.6.6", "X-Real-IP: 6.6.6.6", "X-Forwarded-Proto: https", "X-Forwarded-Port: 1"),
    *("X-Forwarded-Ssl: on", "X-Forwarded-Host: evil", "X-Original-URI: /evil", "Proxy: http://evil/"),
)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_a_stranger_says_about_itself_is_replaced(front: Shared, scheme: str) -> None:
    answer = front.ask("kept", *STRANGER, *FALSE, path="/x?y", scheme=scheme)
    secure = scheme == "https"
    for field, value in (
        ("X-Forwarded-For", "127.0.0.8"),
        ("X-Real-IP", "127.0.0.8"),
        ("X-Forwarded-Proto", scheme),
        ("X-Forwarded-Port", str(front.secure if secure else front.clear)),
        ("X-Forwarded-Ssl", "on" if secure else "off"),
        ("X-Forwarded-Host", "kept.example.com"),
        ("X-Original-URI", "/x?y"),
    ):
        assert answer.seen(field) == [value]
    assert answer.seen("Proxy") == [], "HTTP_PROXY of a CGI program"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("203.0.113.9", "203.0.113.9, 127.0.0.7"),
        ("6.6.6.6, 203.0.113.9", "203.0.113.9, 127.0.0.7"),
        ("203.0.113.9, 173.245.48.1", "203.0.113.9, 173.245.48.1, 127.0.0.7"),
        ("203.0.113.9:5555", "203.0.113.9, 127.0.0.7"),
        ("[2001:db8::9]:5555", "2001:db8::9, 127.0.0.7"),
        ("203.0.113.9, nobody", "127.0.0.7"),
    ],
    ids=["one", "one who lies", "through a cloud", "port", "v6", "no address"],
)
def test_what_a_trusted_proxy_says_is_kept_as_far_as_trust_goes(front: Shared, said: str, told: str) -> None:
    answer = front.ask("forwarded", *TRUSTED, f"X-Forwarded-For: {said}", "X-Forwarded-Proto: https")
    assert answer.seen("X-Forwarded-For") == [told]
    assert answer.seen("X-Real-IP") == [told.partition(",")[0]]
    assert answer.seen("X-Forwarded-Proto") == ["https"]
    assert answer.seen("X-Forwarded-Port") == ["443"]
    assert answer.seen("X-Forwarded-Ssl") == ["on"]
    (forwarded,) = answer.seen("Forwarded")
    hops = [hop.strip().partition(";")[0].removeprefix("for=").strip('"[]') for hop in forwarded.split(",")]
    assert ", ".join(hops) == told


def test_forwarded_of_a_trusted_proxy_is_continued(front: Shared) -> None:
    said = "Forwarded: for=203.0.113.9;proto=https;host=www.example.com"
    answer = front.ask("kept", *TRUSTED, said)
    mine = "for=127.0.0.7;proto=http;host=kept.example.com"
    assert answer.seen("Forwarded") == [f"{said.partition(' ')[2]}, {mine}"]
    assert answer.seen("X-Forwarded-For") == ["203.0.113.9, 127.0.0.7"]
    assert answer.seen("X-Forwarded-Proto") == ["https"]


def test_fields_of_one_connection_go_no_further(front: Shared) -> None:
    answer = front.ask("kept", "Connection: X-Mine, close", "X-Mine: 1", "X-Yours: 2", "Cookie: a=b")
    assert (answer.seen("X-Mine"), answer.seen("X-Yours"), answer.seen("Cookie")) == ([], ["2"], ["a=b"])
    assert (answer.got("X-Hop"), answer.got("X-Other")) == ([], ["kept"])
    assert (answer.got("Alt-Svc"), answer.got("Server")) == ([], ["backend"])


def test_an_option_that_is_none_is_refused(programs: Programs) -> None:
    said = refusal(programs, HEAD + example("refused", '"force_http1_upstream"'))
    assert 'did you mean "force_http11_upstream"?' in said
