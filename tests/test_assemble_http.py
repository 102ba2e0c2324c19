"""From a file to sites, routes, logs and pages: each key of it reaches the thing that it is about."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from twisted.application.service import MultiService

from rproxy.assemble_http import HttpParts, HttpTables, http_tables
from rproxy.assemble_parts import Parts
from rproxy.config.load import parse
from rproxy.config.schema import Configuration
from rproxy.deadlines import Deadlines
from rproxy.errors import BodyTooLarge, Misdirected, NoRoute, Redirect, Refusal, StartError, UnknownHost
from rproxy.interfaces import Arrival
from rproxy.sites import Route, Site
from rproxy.splice import Pipes
from rproxy.transports import Accepted
from rproxy.upstream.http_client import HttpPeer
from rproxy.wire.address import Address, Inet, Unix
from rproxy.wire.clienthello import ClientHello
from tests.fakes import LogLines, Loop
from tests.http_world import OK, Stream, body_of, head_of, statuses_of
from tests.wire.reading import request_of

CLIENT, LOCAL = Inet("192.0.2.7", 4711), Inet("192.0.2.1", 80)
PORTS = "listen_port = 80\nlisten_port_tls = 443\n"
CLOSING = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
SECRET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"


class Machine(Loop):
    nameResolver: Any = None


class Ends:
    """Stands for `assemble_tls.Ends`."""

    clients = None

    def __init__(self, key: str) -> None:
        self.key = key

    def covers(self, name: str) -> bool:
        return name != "uncovered.test"

    def around(self, inner: Any) -> Any:
        return self.key, inner.secure


class House:
    """The HTTP half of a proxy, and a backend in the test's hands."""

    def __init__(self) -> None:
        self.loop, self.lines = Machine(), list[bytes]()
        self.pipes, self.sockets = Pipes(), list[socket.socket]()
        journal: Any = None
        self.shared = Parts(self.loop, journal, MultiService())
        self.parts = HttpParts(self.loop, Deadlines(self.loop), self.pipes, self.lines.append)
        self.factory = self.parts.factory(secure=False)
        self.backend = self.listening()

    def listening(self) -> socket.socket:
        self.sockets.append(socket.create_server(("127.0.0.1", 0)))
        return self.sockets[-1]

    def refusing(self) -> socket.socket:
        """A port that refuses; a closed one might become the next listener's."""
        self.sockets.append(socket.socket())
        self.sockets[-1].bind(("127.0.0.1", 0))
        return self.sockets[-1]

    @property
    def location(self) -> str:
        return f'location = "127.0.0.1:{self.backend.getsockname()[1]}"'

    def app(self, more: str = "", entry: str = "", key: str = "a", names: str = '"a.test"') -> str:
        """An app with one entry for the backend."""
        head = f"[apps.{key}]\nserver_name = [{names}]\n{more}\n"
        return f"{head}[[apps.{key}.reverse_proxy]]\nupstream = [{{ {self.location} }}]\n{entry}\n"

    def config(self, text: str) -> Configuration:
        return parse(text, "x.toml", rows=())

    def tables(self, text: str) -> HttpTables:
        make: Any = Ends
        config = self.config(text)
        return http_tables(config, self.parts, self.shared.http_peer, lambda key, app: make(key), Random(1))

    def use(self, text: str) -> HttpTables:
        built = self.tables(text)
        self.parts.use(self.config(text), built)
        return built

    def flush(self) -> list[str]:
        """The lines of the log so far."""
        self.loop.advance(1)
        lines, self.lines[:] = b"".join(self.lines).decode().splitlines(), []
        return lines

    def connect(self) -> Stream:
        """A client of the clear-text port."""
        front, ours = self.listening(), socket.socket()
        ours.connect(front.getsockname())
        theirs, place = front.accept()
        theirs.setblocking(False)
        protocol: Any = self.factory.buildProtocol(arrival())
        transport: Any = Accepted(theirs, protocol, place, None, 0, self.loop)
        protocol.makeConnection(transport)
        self.sockets.append(ours)
        return self.stream(ours)

    def asked(self) -> Stream:
        """The backend's end of the next connection to it."""
        self.loop.spin()
        self.backend.setblocking(False)
        self.sockets.append(self.backend.accept()[0])
        return self.stream(self.sockets[-1])

    def stream(self, sock: socket.socket) -> Stream:
        world: Any = self
        return Stream(world, sock)

    def exchange(
        self, host: bytes = b"a.test", path: bytes = b"/x", answer: bytes = CLOSING
    ) -> tuple[bytes, bytes]:
        """What the backend is asked, and what the client gets, for one request."""
        client = self.connect().send(
            b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (path, host)
        )
        backend = self.asked()
        question = backend.read()
        backend.send(answer)
        return question, client.read()

    def answer(self, host: bytes, more: bytes = b"") -> bytes:
        """What the proxy itself answers."""
        ask = b"GET /x?secret=1 HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n%b\r\n" % (host, more)
        answer: bytes = self.connect().send(ask).read()
        return answer

    def end(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.loop.spin()
        self.shared.close()
        self.parts.close_logs()
        self.pipes.close()


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    house.end()


def arrival(name: str | None = None, local: Address = LOCAL) -> Arrival:
    hello = ClientHello(name, (), (0x0304,)) if name else None
    return Arrival("tcp:80", CLIENT, CLIENT, local, hello=hello)


def found(
    tables: HttpTables, host: str, name: str | None = None, path: str = "/x", method: str = "GET"
) -> tuple[Site, Route, bytes | None]:
    request = request_of(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    return tables.sites.route(request, arrival(name), name is not None)


def told(tables: HttpTables, host: str, name: str | None = None, path: str = "/x") -> Any:
    """The app, or the refusal's class, or where a redirect leads."""
    try:
        return found(tables, host, name, path)[0].app
    except Redirect as redirect:
        return redirect.location.decode()
    except Refusal as refusal:
        return type(refusal)


def route_of(tables: HttpTables, path: str = "/x") -> Route:
    return found(tables, "a.test", path=path)[1]


# -- which port serves whom

STREAM = 'passthrough = { upstream = [{ location = "10.0.0.1:443" }] }'
TLS = "tls = { self_signed = true }"


@pytest.mark.parametrize(
    ("kind", "inside_tls", "in_clear"),
    [
        (TLS, "a", "https://a.test/x"),
        (f"{TLS}\nhttps_redirection = false", "a", "a"),
        ("", UnknownHost, "a"),
        (STREAM, UnknownHost, "a"),
    ],
)
def test_an_app_is_served_where_its_kind_says(
    house: House, kind: str, inside_tls: object, in_clear: object
) -> None:
    tables = house.tables(PORTS + house.app(kind) + house.app("tls.self_signed = true", "", "o", '"o.test"'))
    check = house.tables(PORTS + "ignore_sni_consistency = true\n" + house.app(kind))
    assert (told(check, "a.test", "a.test"), told(tables, "a.test")) == (inside_tls, in_clear)
    ending: Any = {"o.test": ("o", True)} | ({"a.test": ("a", True)} if kind.startswith(TLS) else {})
    assert tables.terminating == ending


def test_an_app_that_only_passes_tls_on_sends_clear_text_to_https(house: House) -> None:
    tables = house.tables(PORTS + f'[apps.a]\nserver_name = ["a.test", "*.a.test"]\n{STREAM}\n')
    assert [told(tables, host) for host in ("a.test", "x.a.test")] == [
        "https://a.test/x",
        "https://x.a.test/x",
    ]
    assert (told(tables, "a.test", "a.test"), tables.terminating) == (UnknownHost, {})


@pytest.mark.parametrize(
    ("listening", "location"),
    [
        ("listen_port_tls = 443", "https://a.test/x"),
        ("listen_port_tls = 8443", "https://a.test:8443/x"),
        ("listen_port_tls = 8443\npublic_https_port = 443", "https://a.test/x"),
        ("listen_port_tls = 443\npublic_https_port = 9443", "https://a.test:9443/x"),
        ('listen_tls = "unix:/run/tls.sock"', "https://a.test/x"),
    ],
)
def test_redirects_name_the_port_that_clients_see(house: House, listening: str, location: str) -> None:
    """R-G-6."""
    assert told(house.tables(f"listen_port = 80\n{listening}\n" + house.app(TLS)), "a.test") == location


def test_a_connection_may_be_used_for_the_names_that_its_certificate_covers(house: House) -> None:
    app = house.app(TLS, names='"a.test", "b.test", "uncovered.test"')
    tables = house.tables(PORTS + app)
    hosts = ("a.test", "b.test", "uncovered.test")
    assert [told(tables, host, "a.test") for host in hosts] == ["a", "a", Misdirected]
    lenient = house.tables(PORTS + "ignore_sni_consistency = true\n" + app)
    assert told(lenient, "uncovered.test", "a.test") == "a"


@pytest.mark.parametrize(
    ("names", "forced"), [('"*.a.test", "b.test", "c.test"', b"b.test"), ('"*.a.test"', None)]
)
def test_the_default_app_serves_unknown_hosts_under_its_first_name(
    house: House, names: str, forced: bytes | None
) -> None:
    tables = house.tables('default_app = "a"\n' + PORTS + house.app(names=names))
    site, _, host = found(tables, "nobody.test")
    assert (site.app, host) == ("a", forced)


def test_without_a_default_an_unknown_host_is_unknown(house: House) -> None:
    assert told(house.tables(PORTS + house.app()), "nobody.test") is UnknownHost


# -- routes


def test_each_entry_is_a_route_with_its_own_prefix(house: House) -> None:
    more = f'[[apps.a.reverse_proxy]]\npath = "/new"\nreplace_path = "/api"\n{house.location}\n'
    tables = house.tables(PORTS + house.app(entry='path = "/old"') + more)
    assert route_of(tables, "/old/x").target(b"/old/x") == b"/old/x"
    assert route_of(tables, "/new/x").target(b"/new/x") == b"/api/x"
    assert told(tables, "a.test", path="/newer") is NoRoute


@pytest.mark.parametrize(
    ("key", "attribute"),
    [
        ("connect_timeout", "connect_timeout"),
        ("response_timeout", "response_timeout"),
        ("body_timeout", "body_timeout"),
        ("upgrade_idle_timeout", "tunnel_idle"),
        ("retries", "retries"),
    ],
)
def test_patience_comes_from_the_entry_else_its_app_else_the_file(
    house: House, key: str, attribute: str
) -> None:
    top, app, entry = (f"{key} = {number}\n" for number in (3, 4, 5))
    texts = (top + PORTS + house.app(), top + PORTS + house.app(app), top + PORTS + house.app(app, entry))
    assert [getattr(route_of(house.tables(text)), attribute) for text in texts] == [3, 4, 5]


@pytest.mark.parametrize(
    ("balance", "first"),
    [
        ("none", "aaaa"),
        ("primary_backup", "aaaa"),
        ("round_robin", "abab"),
        ("sticky", "abab"),
        ("least_connections", "abab"),
        ("source_ip", "bbbb"),
    ],
)
def test_a_route_spreads_as_its_entry_says(house: House, balance: str, first: str) -> None:
    upstream = '[{ location = "10.0.0.1:1" }, { location = "10.0.0.2:1" }]'
    entry = f'[[apps.a.reverse_proxy]]\nupstream = {upstream}\nload_balance = "{balance}"\n'
    route = route_of(house.tables(PORTS + f'[apps.a]\nserver_name = "a.test"\n{entry}'))
    peers = [route.group.pick("192.0.2.7", [], 0.0) for _ in range(4)]
    assert "".join("ab"[route.group.peers.index(peer)] for peer in peers if peer is not None) == first
    assert (route.sticky is not None) == (balance == "sticky")


def test_a_body_has_the_limit_of_its_app_else_of_the_file(house: House) -> None:
    tables = house.tables(
        "request_max_body_size = 10\n"
        + PORTS
        + house.app()
        + house.app("request_max_body_size = 20", key="b", names='"b.test"')
        + house.app("request_max_body_size = 0", key="c", names='"c.test"')
    )
    head = "POST / HTTP/1.1\r\nHost: {}.test\r\nContent-Length: {}\r\n\r\n"
    for host, length, fits in (("a", 10, 1), ("a", 11, 0), ("b", 20, 1), ("b", 21, 0), ("c", 1 << 40, 1)):
        request = request_of(head.format(host, length).encode())
        if fits:
            tables.sites.route(request, arrival(), False)
        else:
            with pytest.raises(BodyTooLarge):
                tables.sites.route(request, arrival(), False)


def test_rules_of_the_entry_follow_those_of_the_app(house: House) -> None:
    house.use(
        PORTS
        + house.app(
            "request_headers.set = { A = '1', B = '1' }\nresponse_headers.set = { C = '1', D = '1' }",
            "request_headers.remove = 'A'\nresponse_headers.set = { D = '2' }",
        )
    )
    question, answer = house.exchange()
    assert (head_of(question)[1].get(b"a"), head_of(question)[1].get(b"b")) == (None, b"1")
    assert (head_of(answer)[1][b"c"], head_of(answer)[1][b"d"]) == (b"1", b"2")


def test_the_hosts_folder_has_the_times_and_the_limit_of_the_file(house: House, tmp_path: Path) -> None:
    (tmp_path / "in.folder").mkdir()
    times = "connect_timeout = 1\nresponse_timeout = 2\nbody_timeout = 3\nupgrade_idle_timeout = 4\n"
    text = f'{times}request_max_body_size = 5\n{PORTS}[hosts]\ndirectory = "{tmp_path}"\n'
    site, route, _ = found(house.tables(text), "in.folder")
    assert (site.app, site.max_body) == ("hosts", 5)
    found_times = (route.connect_timeout, route.response_timeout, route.body_timeout, route.tunnel_idle)
    assert found_times == (1.0, 2.0, 3.0, 4.0)
    assert told(house.tables(PORTS + house.app()), "in.folder") is UnknownHost


# -- sticky cookies


def sticky(
    house: House,
    top: str = f'sticky_cookie_secret = "{SECRET}"\n',
    more: str = "",
    second: str = "10.0.0.2:1",
) -> Route:
    upstream = f'[{{ location = "10.0.0.1:1" }}, {{ location = "{second}" }}]'
    text = f'[[apps.a.reverse_proxy]]\npath = "/s"\nupstream = {upstream}\nload_balance = "sticky"\n{more}'
    return route_of(house.tables(top + PORTS + f'[apps.a]\nserver_name = "a.test"\n{text}'), "/s")


def given(route: Route, number: int) -> bytes:
    """The Set-Cookie that keeps a client at a peer."""
    assert route.sticky is not None
    peer: Any = route.group.peers[number]
    cookie = route.sticky.renewal(request_of(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), peer, 0.0, False)
    assert cookie is not None
    return cookie


def kept(route: Route, cookie: bytes) -> int | None:
    """The peer that a client with this cookie goes to."""
    assert route.sticky is not None
    head = b"GET / HTTP/1.1\r\nHost: a\r\nCookie: %b\r\n\r\n" % cookie.partition(b";")[0]
    peer = route.sticky.peer(request_of(head), 1.0)
    return None if peer is None else route.group.peers.index(peer)


def test_a_cookie_is_called_and_lives_as_the_file_says(house: House) -> None:
    cookie = given(sticky(house, more='sticky_cookie = { name = "mine", max_age = "1h" }'), 0)
    assert cookie.startswith(b"mine=")
    assert b"; Max-Age=3600; Path=/s;" in cookie


def test_a_cookie_outlives_a_restart_if_the_file_has_the_secret(house: House) -> None:
    again = House()
    for number in (0, 1):
        cookie = given(sticky(house), number)
        assert (kept(sticky(house), cookie), kept(sticky(again), cookie)) == (number, number)
    again.end()


def test_a_cookie_names_a_backend_and_not_its_place_in_the_file(house: House) -> None:
    cookies = [given(sticky(house), number) for number in (0, 1)]
    assert [kept(sticky(house, second="10.0.0.3:1"), cookie) for cookie in cookies] == [0, None]


def test_without_a_secret_it_outlives_a_reload_and_that_is_said_once(house: House) -> None:
    again = House()
    with LogLines() as log:
        cookie = given(sticky(house, ""), 1)
        assert kept(sticky(house, ""), cookie) == 1
    assert kept(sticky(again, ""), cookie) is None
    assert log.texts("rproxy.assemble") == [
        "sticky_cookie_secret is not set: a restart gives sticky clients new peers"
    ]
    again.end()


def test_the_cookie_stays_with_the_proxy(house: House) -> None:
    house.use(f'sticky_cookie_secret = "{SECRET}"\n' + PORTS + house.app('load_balance = "sticky"'))
    client = house.connect().send(b"GET / HTTP/1.1\r\nHost: a.test\r\nCookie: rproxy_sticky=1; b=2\r\n\r\n")
    backend = house.asked()
    assert head_of(backend.read())[1][b"cookie"] == b"b=2"
    backend.send(OK)
    assert head_of(client.read())[1][b"set-cookie"].startswith(b"rproxy_sticky=")


# -- pages


def test_an_app_has_its_own_pages_and_others_have_ours(house: House, tmp_path: Path) -> None:
    page = tmp_path / "gone.html"
    page.write_text("<p>mine {status}")
    house.backend = house.refusing()
    house.use(PORTS + house.app(f'error_pages = {{ 5xx = "{page}" }}') + house.app("", "", "b", '"b.test"'))
    html = b"Accept: text/html\r\n"
    assert body_of(house.answer(b"a.test", html)).startswith(b"<p>mine 502")
    for host, status in ((b"b.test", 502), (b"nobody.test", 404)):
        answer = house.answer(host, html)
        assert (statuses_of(answer), b"mine" in answer) == ([status], False)


def test_a_page_that_cannot_be_read_refuses_the_file(house: House) -> None:
    with pytest.raises(StartError, match=r"error_pages: /nonexistent\.html cannot be read"):
        house.tables(PORTS + house.app('error_pages = { 404 = "/nonexistent.html" }'))


# -- logs


def test_each_request_has_one_line_in_the_form_of_the_file(house: House) -> None:
    house.use('access_log.format = "json"\n' + PORTS + house.app())
    house.exchange()
    house.answer(b"nobody.test")
    first, second = map(json.loads, house.flush())
    assert (first["app"], first["status"], first["reason"], first["bytes"]) == ("a", 200, "ok", 2)
    assert first["upstream"] == "http://" + house.location.split('"')[1]
    assert (second["app"], second["status"], second["reason"]) == ("-", 404, "unknown_host")
    assert second["path"] == "/x?secret=1"


def test_queries_are_redacted_where_the_file_says_so(house: House) -> None:
    house.use("redact_query_in_access_log = true\n" + PORTS + house.app())
    house.answer(b"nobody.test")
    (line,) = house.flush()
    assert "secret=<redacted>" in line
    assert "secret=1" not in line


def test_an_app_may_have_a_file_of_its_own_which_can_be_moved_away(house: House, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    own = f'access_log = {{ path = "{path}", format = "common" }}'
    house.use(PORTS + house.app(own) + house.app(key="b", names='"b.test"'))
    house.exchange()
    house.exchange(b"b.test")
    assert [line.split(" ")[1] for line in house.flush()] == ["b.test"]
    assert '"GET /x HTTP/1.1" 200 2' in path.read_text()
    path.rename(tmp_path / "a.log.1")
    house.parts.reopen_logs()
    house.exchange()
    house.flush()
    assert len(path.read_text().splitlines()) == 1


def test_at_the_end_no_line_is_missing(house: House, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    house.use(PORTS + house.app(f'access_log.path = "{path}"'))
    house.exchange()
    house.answer(b"nobody.test")
    assert (house.lines, path.read_text()) == ([], ""), "they wait for company"
    house.parts.close_logs()
    assert (len(house.lines), len(path.read_text().splitlines())) == (1, 1)


def test_a_log_that_cannot_be_opened_refuses_the_file(house: House) -> None:
    with pytest.raises(StartError, match=r"access_log: /nonexistent/a\.log cannot be opened"):
        house.tables(PORTS + house.app('access_log.path = "/nonexistent/a.log"'))


# -- what all connections share


def test_a_file_is_in_use_from_the_next_connection_on(house: House) -> None:
    house.use(PORTS + house.app())
    lives = house.connect()
    house.use(PORTS + house.app(names='"b.test"'))
    ask = b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n"
    lives.send(ask % b"a.test")
    house.asked().send(CLOSING)
    assert (lives.read(), statuses_of(house.answer(b"a.test"))) == (OK, [404])
    assert house.exchange(b"b.test")[1].startswith(b"HTTP/1.1 200")


def test_times_rates_and_streams_are_those_of_the_file(house: House) -> None:
    top = "header_timeout = 1\nkeepalive_timeout = 2\nbody_timeout = 3\nmin_body_rate = 4\n"
    house.use(top + "max_concurrent_streams = 5\n" + PORTS + house.app())
    limits = house.parts.serving.limits
    assert (limits.head, limits.keep_alive, limits.body, limits.min_rate) == (1.0, 2.0, 3.0, 4)
    assert limits.streams == 5


@pytest.mark.parametrize(
    ("top", "entry", "shortest"),
    [
        ("", "", 60.0),
        ("response_timeout = 7", "", 7.0),
        ("", "body_timeout = 6", 6.0),
        ("response_timeout = 7", "upgrade_idle_timeout = 5", 5.0),
        ("", "upgrade_idle_timeout = 0", 60.0),
    ],
)
def test_connections_are_looked_at_as_often_as_the_shortest_limit_needs(
    house: House, top: str, entry: str, shortest: float
) -> None:
    house.use(f"{top}\n" + PORTS + house.app(entry=entry))
    assert house.parts.serving.limits.shortest == shortest


def test_who_is_trusted_and_which_port_was_used(house: House) -> None:
    house.use('trusted_forwarded_proxies = ["192.0.2.0/24"]\n' + PORTS + house.app())
    transport: Any = None
    facts = house.parts.serving.facts(arrival(), False, transport)
    assert (facts.node, facts.port, facts.https, facts.is_trusted) == ("192.0.2.7", 80, False, True)
    facts = house.parts.serving.facts(arrival(local=Unix(b"/run/http.sock")), True, transport)
    assert (facts.port, facts.https) == (0, True)
    house.use(PORTS + house.app())
    assert not house.parts.serving.facts(arrival(), False, transport).is_trusted


def test_without_a_word_about_the_port_the_socket_is_asked(house: House) -> None:
    house.use(PORTS + house.app())
    plain = Arrival("tcp:80", CLIENT, CLIENT)
    transport: Any = type("T", (), {"getHandle": lambda self: house.backend, "proxy_header": None})()
    assert house.parts.serving.facts(plain, False, transport).port == house.backend.getsockname()[1]


def test_peers_come_from_the_parts_that_outlive_a_reload(house: House) -> None:
    (before,), (after,) = (route_of(house.tables(PORTS + house.app())).group.peers for _ in range(2))
    assert before is after
    assert isinstance(before, HttpPeer)
