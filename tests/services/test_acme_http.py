"""Requests to an authority over real sockets, and what a bad one can do to us: nothing that lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.defer import ensureDeferred as begin
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions, PrivateCertificate
from twisted.web.http_headers import Headers

from rproxy.services import acme_http
from rproxy.services.acme_http import AT_ONCE, MOST_BYTES, MOST_URL, Reply, Web, agent, checked_url, host_of
from rproxy.services.acme_problems import AcmeError, Kind
from tests.fakes import until
from tests.tlspeers import listening, make

SERVER = make("localhost", "127.0.0.1", ca=True)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nReplay-Nonce: abc\r\n"


class Server(Protocol):
    """Answers every request with what the test says."""

    transport: Any

    def __init__(self, say: Callable[[Any], None], served: list[bytes]) -> None:
        self._say, self._served, self._got = say, served, b""

    def dataReceived(self, data: bytes) -> None:
        self._got += data
        if b"\r\n\r\n" in self._got:
            self._served.append(self._got)
            self._got = b""
            self._say(self.transport)


class Serving:
    def __init__(self, directory: Path) -> None:
        self.served: list[bytes] = []
        self.say: Callable[[Any], None] = lambda transport: transport.write(HEAD + b"\r\nok")
        self.root = directory / "root.pem"
        self.root.write_bytes(SERVER.pem)
        self.connections = 0
        options = PrivateCertificate.loadPEM(SERVER.key_pem + SERVER.pem).options()
        assert isinstance(options, CertificateOptions)
        self._options = options

    def factory(self) -> Any:
        from twisted.protocols.tls import TLSMemoryBIOFactory

        inner: Any = Factory()
        inner.noisy = False

        def build(addr: Any) -> Server:
            self.connections += 1
            return Server(lambda transport: self.say(transport), self.served)

        inner.buildProtocol = build
        return TLSMemoryBIOFactory(self._options, False, inner)

    def web(self, ca_file: Path | None = None) -> Web:
        return Web(reactor, agent(reactor, ca_file or self.root))


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    return Serving(tmp_path)


@pytest.fixture
def port(serving: Serving) -> Iterator[int]:
    with listening(serving.factory()) as port:
        yield port


async def trouble(web: Web, url: str) -> str:
    with pytest.raises(AcmeError) as caught:
        await web.ask(b"GET", url)
    assert caught.value.kind is Kind.UNREACHABLE
    return caught.value.words


@ensureDeferred
async def test_a_request_has_what_authorities_want(serving: Serving, port: int) -> None:
    reply = await serving.web().ask(b"POST", f"https://localhost:{port}/x?y", b"{}", b"application/json")
    assert (reply.status, reply.body, reply.header("replay-nonce")) == (200, b"ok", "abc")
    (sent,) = serving.served
    assert sent.startswith(b"POST /x?y HTTP/1.1\r\n")
    for field in (
        b"User-Agent: rproxy/",
        b"Content-Type: application/jose+json\r\n",
        b"Content-Length: 2\r\n",
    ):
        assert field in sent
    assert b"Accept: application/json\r\n" in sent


@ensureDeferred
async def test_connections_are_kept_for_the_next_request(serving: Serving, port: int) -> None:
    web = serving.web()
    for _ in range(3):
        await web.ask(b"GET", f"https://127.0.0.1:{port}/")
    assert serving.connections == 1


@ensureDeferred
async def test_a_redirect_is_an_answer_and_not_followed(serving: Serving, port: int) -> None:
    serving.say = lambda t: t.write(
        b"HTTP/1.1 302 Found\r\nLocation: https://localhost/\r\nContent-Length: 0\r\n\r\n"
    )
    assert (await serving.web().ask(b"GET", f"https://localhost:{port}/")).status == 302
    assert len(serving.served) == 1


@pytest.mark.parametrize(
    "flood",
    [
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (2 * MOST_BYTES),
        b"HTTP/1.1 200 OK\r\n" + b"X-Y: z\r\n" * (MOST_BYTES // 4),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + 600 * (b"1000\r\n" + 4096 * b"x" + b"\r\n"),
    ],
)
@ensureDeferred
async def test_an_answer_that_is_too_large_is_cut_off(
    serving: Serving, port: int, flood: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acme_http, "ANSWER_IN", 2.0)
    serving.say = lambda transport: transport.write(flood)
    assert (
        await trouble(serving.web(), f"https://localhost:{port}/")
        == f"localhost:{port}: the connection broke"
    )


@ensureDeferred
async def test_each_answer_of_a_kept_connection_is_counted_for_itself(serving: Serving, port: int) -> None:
    size = MOST_BYTES * 2 // 3
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    serving.say = lambda transport: transport.write(head + b"x" * size)
    web = serving.web()
    for _ in range(3):
        assert len((await web.ask(b"GET", f"https://localhost:{port}/")).body) == size
    assert serving.connections == 1


@pytest.mark.parametrize("beginning", [b"", HEAD[:20], HEAD, HEAD + b"\r\no"])
@ensureDeferred
async def test_an_answer_that_does_not_come_is_given_up(
    serving: Serving, port: int, beginning: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acme_http, "ANSWER_IN", 0.3)
    serving.say = lambda transport: transport.write(beginning)
    words = await trouble(serving.web(), f"https://localhost:{port}/")
    assert words == f"localhost:{port} has not answered in 0.3 s"


@pytest.mark.parametrize(
    "nonsense", [b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", HEAD]
)
@ensureDeferred
async def test_an_answer_that_is_broken_is_told(serving: Serving, port: int, nonsense: bytes) -> None:
    def say(transport: Any) -> None:
        transport.write(nonsense)
        transport.loseConnection()

    serving.say = say
    words = await trouble(serving.web(), f"https://localhost:{port}/")
    assert words.startswith(f"localhost:{port}: ")
    assert len(words) < 250


@ensureDeferred
async def test_a_server_that_we_do_not_trust_is_told_with_the_way_out(
    serving: Serving, port: int, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(make("other", ca=True, number=5).pem)
    words = await trouble(serving.web(other), f"https://localhost:{port}/")
    assert "verify failed" in words
    assert words.endswith("acme.ca_file names its root")
    assert serving.served == []


@ensureDeferred
async def test_a_server_with_another_name_is_not_spoken_to(serving: Serving, port: int) -> None:
    await trouble(serving.web(), f"https://127.0.0.2:{port}/")
    assert serving.served == []


@ensureDeferred
async def test_nobody_there_is_told(serving: Serving) -> None:
    with listening(serving.factory()) as port:
        pass
    assert (await trouble(serving.web(), f"https://127.0.0.1:{port}/")).startswith(
        f"127.0.0.1:{port}: cannot connect: "
    )


@ensureDeferred
async def test_a_name_that_does_not_exist_is_told(serving: Serving) -> None:
    words = await trouble(serving.web(), "https://no-such-name.invalid/")
    assert words == "no-such-name.invalid: this machine cannot find the address of that name"


@ensureDeferred
async def test_a_server_that_speaks_no_tls_is_told(serving: Serving) -> None:
    class Plain(Protocol):
        def dataReceived(self, data: bytes) -> None:
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")  # type: ignore[union-attr]

    plain: Any = Factory.forProtocol(Plain)
    plain.noisy = False
    with listening(plain) as port:
        assert (await trouble(serving.web(), f"https://127.0.0.1:{port}/")).startswith(
            f"127.0.0.1:{port}: TLS: "
        )


@ensureDeferred
async def test_a_few_requests_at_a_time(serving: Serving, port: int) -> None:
    waiting: list[Any] = []
    serving.say = waiting.append
    web = serving.web()
    asked = [begin(web.ask(b"GET", f"https://localhost:{port}/{i}")) for i in range(3 * AT_ONCE)]
    await until(lambda: len(waiting) == AT_ONCE)
    while not all(each.called for each in asked):
        assert len(waiting) <= AT_ONCE
        await until(lambda: waiting)
        waiting.pop().write(HEAD + b"\r\nok")
        await until(lambda: waiting or all(each.called for each in asked))
    await gatherResults(asked)


@ensureDeferred
async def test_a_request_that_is_given_up_makes_room_for_the_next(serving: Serving, port: int) -> None:
    serving.say = lambda transport: None
    web = serving.web()
    for _ in range(2 * AT_ONCE):
        asked = begin(web.ask(b"GET", f"https://localhost:{port}/"))
        asked.addErrback(lambda _: None)
        asked.cancel()
    serving.say = lambda transport: transport.write(HEAD + b"\r\nok")
    assert (await web.ask(b"GET", f"https://localhost:{port}/")).status == 200


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read .*: No such file"),
        (b"", "holds no certificate in PEM form"),
        (SERVER.key_pem, "holds no certificate in PEM form"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "a certificate in .* is damaged"),
    ],
)
def test_a_file_of_roots_that_cannot_be_used_is_told(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "root.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        agent(reactor, path)


@pytest.mark.parametrize(
    "url",
    [
        "http://x/",
        "ftp://x",
        "",
        "HTTPS://x",
        "https://x/ y",
        "https://é/",
        "https://x/\n",
        "https://" + "x" * MOST_URL,
    ],
)
def test_an_address_that_is_none_of_https_is_not_asked(url: str) -> None:
    with pytest.raises(AcmeError):
        checked_url(url)


def test_a_person_is_told_the_host() -> None:
    assert host_of("https://ca.example:14000/dir") == "ca.example:14000"


def reply(**fields: str) -> Reply:
    headers = Headers()
    for name, value in fields.items():
        headers.addRawHeader(name.replace("_", "-"), value)
    return Reply(200, headers, b"[1]")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5),
        ("0", 0),
        ("9" * 99, 999999999),
        ("Thu, 01 Jan 1970 00:01:00 GMT", 50),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0),
        ("", None),
        ("-5", None),
        ("5.5", None),
        ("٣", None),
        ("soon", None),
        ("Thu, 99 Jan 1970 00:00:01 GMT", None),
        ("Thu, 01 Jan 99999999999999999999 00:00:01 GMT", None),
    ],
)
def test_how_long_to_wait_is_read_from_seconds_and_dates(text: str, seconds: float | None) -> None:
    assert reply(Retry_After=text).retry_after(10) == seconds


def test_a_reply_is_read_with_care() -> None:
    assert reply().document() == [1]
    assert reply()._replace(body=b"{").document() is None
    assert reply()._replace(body=b"[" * 10**6).document() is None
    assert reply(X=" a ").header("x") == "a"
    assert reply().header("x") == ""


@ensureDeferred
async def test_no_request_is_made_for_a_bad_address() -> None:
    class Nobody:
        def request(self, *_: Any) -> Deferred[Any]:
            raise AssertionError

    with pytest.raises(AcmeError, match="does not begin with https://"):
        await Web(reactor, Nobody()).ask(b"GET", "http://x/")  # type: ignore[arg-type]


@ensureDeferred
async def test_who_gives_up_is_told_so_and_nothing_else(serving: Serving, port: int) -> None:
    for beginning in (b"", HEAD + b"\r\no"):
        serving.say = lambda transport, begun=beginning: transport.write(begun)  # type: ignore[misc]
        served = len(serving.served)
        asked = begin(serving.web().ask(b"GET", f"https://localhost:{port}/"))
        await until(lambda served=served: len(serving.served) > served)  # type: ignore[misc]
        asked.cancel()
        with pytest.raises(CancelledError):
            await asked
