"""From a file to a running proxy: routes, reloads that change only what they say, and a stop that waits."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import async_yield_fixture, ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred

from rproxy.assemble import ProxyService, peek_options, wanted
from rproxy.config.load import load, parse
from rproxy.errors import StartError
from rproxy.upstream.peer import Peer
from tests.fakes import Backend, LogLines, Wire, hello_bytes, open_files, turn, until

ALERT_UNKNOWN = bytes.fromhex("15030300020270")


class Proxy:
    """A config file and the service of it, on loopback."""

    def __init__(self, directory: Path) -> None:
        self.file, self.lines = directory / "rproxy.toml", list[bytes]()
        self.clean: list[bool] = []
        self.backends = [Backend() for _ in range(3)]
        self.wires: list[Wire] = []
        self.service: Any = None
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.port = sock.getsockname()[1]

    def app(self, key: str, name: str, backend: int, more: str = "") -> str:
        port = self.backends[backend].address[1]
        upstream = f'[{{ location = "127.0.0.1:{port}" }}]'
        return f'[apps.{key}]\nserver_name = "{name}"\npassthrough = {{ upstream = {upstream}{more} }}\n'

    def write(self, *apps: str, top: str = "") -> None:
        head = f'listen_port_tls = {self.port}\nlisten_address_v4 = "127.0.0.1"\ndrain_timeout = "0.3s"\n'
        self.file.write_text(head + top + "".join(apps))

    def start(self, *apps: str, top: str = "") -> None:
        self.write(*apps, top=top)
        self.service = ProxyService(
            reactor,
            load(self.file),
            self.lines.append,
            file=self.file,
            watch=False,
            drained=self.clean.append,
        )
        self.service.privilegedStartService()
        self.service.startService()

    def reload(self, *apps: str, top: str = "") -> list[str]:
        self.write(*apps, top=top)
        with LogLines() as log:
            self.service.reload()
        return log.texts("rproxy.assemble")

    async def connect(self, name: str | None) -> Wire:
        self.wires.append(Wire.to(("127.0.0.1", self.port)))
        await self.wires[-1].send(hello_bytes(name))
        return self.wires[-1]

    async def reaches(self, name: str | None) -> int | bytes:
        """The backend that a name leads to, or the answer of the proxy itself."""
        wire = await self.connect(name)
        found: list[Any] = []

        def arrived() -> bool:
            for number, backend in enumerate(self.backends):
                if (server := backend.try_accept()) is not None:
                    self.wires.append(server)
                    found.append(number)
            return bool(found or wire.read())

        await until(arrived)
        if found:
            hello = hello_bytes(name)
            assert await self.wires[-1].receive(len(hello)) == hello
        return found[0] if found else bytes(wire.got)

    async def close(self) -> None:
        for wire in self.wires:
            wire.close()
        if self.service is not None and self.service.running:
            await maybeDeferred(self.service.stopService)
        for backend in self.backends:
            backend.close()


@async_yield_fixture()  # type: ignore[untyped-decorator]
async def proxy(tmp_path: Path) -> AsyncIterator[Proxy]:
    files = open_files()
    it = Proxy(tmp_path)
    yield it
    await it.close()
    await until(lambda: open_files() <= files)


@ensureDeferred
async def test_each_name_goes_where_the_file_says(proxy: Proxy) -> None:
    proxy.start(
        proxy.app("one", "a.example", 0),
        proxy.app("two", "*.example", 1),
        proxy.app("rest", "rest.test", 2),
        top='default_passthrough = "rest"\n',
    )
    for name, backend in (
        ("a.example", 0),
        ("b.example", 1),
        ("x.y.example", 1),
        ("else.test", 2),
        (None, 2),
    ):
        assert await proxy.reaches(name) == backend


@ensureDeferred
async def test_ipv6_is_served_beside_ipv4(proxy: Proxy) -> None:
    proxy.start(proxy.app("one", "a.example", 0), top="listen_ipv6 = true\n")
    assert await proxy.reaches("a.example") == 0
    six = Wire(socket.create_connection(("::1", proxy.port), timeout=2))
    proxy.wires.append(six)
    await six.send(hello_bytes("a.example"))
    proxy.wires.append(await proxy.backends[0].accept())


@ensureDeferred
async def test_an_unknown_name_gets_its_alert_and_a_line(proxy: Proxy) -> None:
    proxy.start(proxy.app("one", "a.example", 0))
    assert await proxy.reaches("b.example") == ALERT_UNKNOWN
    proxy.service.parts.journal.flush()
    assert b"name=b.example app=- peer=- " in proxy.lines[0]
    assert b"reason=unknown_name" in proxy.lines[0]


@ensureDeferred
async def test_a_relayed_connection_has_one_line(proxy: Proxy) -> None:
    proxy.start(proxy.app("one", "a.example", 0))
    await proxy.reaches("a.example")
    for wire in proxy.wires:
        wire.close()
    await until(lambda: len(proxy.service.connections) == 0)
    for _ in range(5):
        await turn()
    proxy.service.parts.journal.flush()
    (line,) = b"".join(proxy.lines).splitlines()
    assert b" name=a.example app=one peer=127.0.0.1:" in line
    assert proxy.service.limits.open == 0


@ensureDeferred
async def test_a_reload_moves_new_connections_and_leaves_the_old(proxy: Proxy) -> None:
    proxy.start(proxy.app("one", "a.example", 0))
    assert await proxy.reaches("a.example") == 0
    client, server = proxy.wires
    port = proxy.service.listeners.ports
    assert proxy.reload(proxy.app("one", "a.example", 1)) == [f"reloaded {proxy.file}"]
    assert await proxy.reaches("a.example") == 1
    await server.send(b"still here")
    assert await client.receive(10) == b"still here"
    assert proxy.service.listeners.ports == port, "the same sockets"


@ensureDeferred
async def test_a_peer_outlives_a_reload_with_what_is_known_about_it(proxy: Proxy) -> None:
    apps = proxy.app("one", "a.example", 0), proxy.app("two", "b.example", 1)
    proxy.start(*apps)
    await proxy.reaches("a.example")
    before = peers(proxy)
    first, second = (backend.address[1] for backend in proxy.backends[:2])
    assert {port: peer.open for port, peer in before.items()} == {first: 1, second: 0}
    proxy.reload(*apps)
    assert peers(proxy) == before
    proxy.reload(apps[0])
    assert peers(proxy) == {first: before[first]}


def peers(proxy: Proxy) -> dict[int, Peer]:
    """What the running proxy knows of its peers, by port."""
    return {int(peer.name.rpartition(":")[2]): peer for peer in proxy.service.parts._peers.values()}


@ensureDeferred
@pytest.mark.parametrize(
    "broken",
    ["this is no TOML", "[apps.x]\nunknown_key = 1\n", '[hosts]\ndirectory = "/nonexistent-directory"\n'],
)
async def test_a_broken_file_changes_nothing(proxy: Proxy, broken: str) -> None:
    good = proxy.app("one", "a.example", 0)
    proxy.start(good)
    (said,) = proxy.reload(broken)
    assert said.startswith("reload refused, the configuration stays as it was:\n")
    assert await proxy.reaches("a.example") == 0


@ensureDeferred
async def test_after_a_refused_reload_the_next_good_one_works(proxy: Proxy) -> None:
    """Also when the refusal came in the middle of building peers."""
    good = proxy.app("one", "a.example", 0)
    proxy.start(good)
    bad = good.replace("a.example", "c.example").replace(
        "[{ location", '[{ location = "nonesuch:there" }, { location'
    )
    (said,) = proxy.reload(bad)
    assert 'Twisted cannot use the endpoint "nonesuch:there"' in said
    proxy.reload(proxy.app("one", "a.example", 1))
    assert await proxy.reaches("a.example") == 1
    proxy.reload(proxy.app("one", "a.example", 2))
    assert await proxy.reaches("a.example") == 2


@ensureDeferred
async def test_a_taken_port_refuses_the_reload_as_a_whole(proxy: Proxy) -> None:
    proxy.start(proxy.app("one", "a.example", 0))
    taken = proxy.backends[2].address[1]
    more = f'listen_tls = "tcp:{taken}:interface=127.0.0.1"\n'
    (said,) = proxy.reload(proxy.app("one", "a.example", 1), top=more)
    assert "Address already in use" in said
    assert await proxy.reaches("a.example") == 0


@ensureDeferred
@pytest.mark.parametrize(
    ("listener", "said"),
    [
        ("tcp:PORT:interface=203.0.113.1", "Cannot assign requested address"),
        ("tcp:PORT:intreface=127.0.0.1", "intreface"),
    ],
)
async def test_a_mistake_in_the_place_of_the_only_listener_refuses_the_reload(
    proxy: Proxy, listener: str, said: str
) -> None:
    proxy.start(proxy.app("one", "a.example", 0))
    before = proxy.service.listeners.ports
    listener = listener.replace("PORT", str(proxy.port))
    proxy.file.write_text(f'listen_tls = "{listener}"\n' + proxy.app("one", "a.example", 1))
    with LogLines() as log:
        proxy.service.reload()
    (text,) = log.texts("rproxy.assemble")
    assert text.startswith("reload refused, the configuration stays as it was:\n")
    assert said in text
    for _ in range(3):
        await turn()
    assert proxy.service.listeners.ports == before
    assert await proxy.reaches("a.example") == 0


@ensureDeferred
async def test_a_reload_may_swap_clear_text_and_tls(proxy: Proxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        other = sock.getsockname()[1]
    proxy.start(proxy.app("one", "a.example", 0), top=f"listen_port = {other}\n")
    assert (await asked(proxy, other)).startswith(b"HTTP/1.1 ")
    assert await proxy.reaches("a.example") == 0
    before = proxy.service.listeners.ports
    swapped = (
        proxy.file.read_text().replace("_tls = ", "_x = ").replace("listen_port = ", "listen_port_tls = ")
    )
    proxy.file.write_text(swapped.replace("listen_port_x", "listen_port"))
    proxy.service.reload()
    assert proxy.service.listeners.ports == before
    assert (await asked(proxy, proxy.port)).startswith(b"HTTP/1.1 ")
    proxy.port = other
    assert await proxy.reaches("a.example") == 0


async def asked(proxy: Proxy, port: int) -> bytes:
    """What a port answers a request in clear text for nobody."""
    proxy.wires.append(Wire.to(("127.0.0.1", port)))
    await proxy.wires[-1].send(b"GET / HTTP/1.1\r\nHost: nobody.example\r\nConnection: close\r\n\r\n")
    return await proxy.wires[-1].receive(9)


@ensureDeferred
@pytest.mark.parametrize("nested", ["tcp:PORT:interface=127.0.0.1", "unix:PATH"])
async def test_an_accepting_endpoint_tells_the_peer_what_its_header_said(
    proxy: Proxy, nested: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = sock.getsockname()
    nested = nested.replace("PORT", str(address[1])).replace("PATH", str(tmp_path / "s"))
    more = ', proxy_protocol = "v1"'
    proxy.start(proxy.app("one", "a.example", 0, more), top=f'listen_tls = "acceptproxy:{nested}"\n')
    client = Wire.to(address if nested.startswith("tcp") else str(tmp_path / "s"))
    line = b"PROXY TCP4 192.0.2.7 203.0.113.9 1111 443\r\n"
    await client.send(line + hello_bytes("a.example"))
    server = await proxy.backends[0].accept()
    proxy.wires += [client, server]
    assert (
        await server.receive(len(line) + 1) == line + hello_bytes("a.example")[: len(server.got) - len(line)]
    )


@ensureDeferred
@pytest.mark.parametrize(
    "location", ["tls:a.test:443:trustRoots=/nonexistent", "ssl:a.test:443:caCertsDir=/nonexistent"]
)
async def test_an_endpoint_plugins_own_mistakes_refuse_the_reload(proxy: Proxy, location: str) -> None:
    good = proxy.app("one", "a.example", 0)
    proxy.start(good)
    (said,) = proxy.reload(good.replace("[{ location", f'[{{ location = "{location}" }}, {{ location'))
    assert said.startswith("reload refused, the configuration stays as it was:\n")
    assert f'Twisted cannot use the endpoint "{location}": [Errno 2] No such file' in said
    assert await proxy.reaches("a.example") == 0


@ensureDeferred
async def test_limits_follow_a_reload(proxy: Proxy) -> None:
    app = proxy.app("one", "a.example", 0)
    proxy.start(app)
    await proxy.reaches("a.example")
    proxy.reload(app, top="max_clients = 1\n")
    refused = Wire.to(("127.0.0.1", proxy.port))
    proxy.wires.append(refused)
    assert await refused.ends() in ("eof", "reset")
    proxy.reload(app, top="max_clients = 2\n")
    assert await proxy.reaches("a.example") == 0


@ensureDeferred
async def test_a_stop_waits_for_connections_to_end(proxy: Proxy) -> None:
    proxy.start(proxy.app("one", "a.example", 0))
    await proxy.reaches("a.example")
    client, server = proxy.wires
    stopped = maybeDeferred(proxy.service.stopService)
    for _ in range(5):
        await turn()
    assert proxy.clean == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", proxy.port)) != 0
    await client.send(b"last words")
    await server.receive(len(hello_bytes("a.example")) + 10)
    client.close()
    server.close()
    await stopped
    assert proxy.clean == [True]
    assert b"reason=closed" in b"".join(proxy.lines)


@ensureDeferred
async def test_a_stop_cuts_off_what_is_left_at_its_deadline(proxy: Proxy) -> None:
    proxy.start(proxy.app("one", "a.example", 0))
    await proxy.reaches("a.example")
    await maybeDeferred(proxy.service.stopService)
    assert proxy.clean == [False]
    assert await proxy.wires[0].ends() == "reset"


@ensureDeferred
async def test_the_demo_answers_without_any_backend(proxy: Proxy) -> None:
    proxy.start(
        '[apps.demo]\nserver_name = "a.localhost"\npassthrough = { upstream = [{ location = "demo:" }] }\n'
    )
    wire = await proxy.connect("a.localhost")
    assert (await wire.receive(5))[:1] == b"\x16"


@ensureDeferred
async def test_the_hosts_folder_serves_what_no_app_has(proxy: Proxy, tmp_path: Path) -> None:
    (tmp_path / "hosts" / "in.folder").mkdir(parents=True)
    backend = Backend(str(tmp_path / "hosts" / "in.folder" / "tls-socket"))
    proxy.backends.append(backend)
    proxy.start(proxy.app("one", "a.example", 0), '[hosts]\ndirectory = "hosts"\n')
    assert await proxy.reaches("in.folder") == 3
    assert await proxy.reaches("a.example") == 0
    assert await proxy.reaches("not.there") == ALERT_UNKNOWN


@ensureDeferred
@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("[fe80::1%nonesuch0]:443", "this machine has no such network interface"),
        ("nonesuch:there", "Twisted cannot use the endpoint"),
        ("tls:a:443:bogus=1", "Twisted cannot use the endpoint"),
        ("tls:a.test:443:trustRoots=/nonexistent", "Twisted cannot use the endpoint"),
        (
            "tls:a.test:443:certificate=/nonexistent:privateKey=/nonexistent",
            "Twisted cannot use the endpoint",
        ),
        ("ssl:a.test:443:caCertsDir=/nonexistent", "Twisted cannot use the endpoint"),
        ("ssl:a.test:443:privateKey=KEY:certKey=KEY", "Twisted cannot use the endpoint"),
    ],
)
async def test_what_only_this_machine_shows_is_text_at_the_start(
    proxy: Proxy, location: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n")
    location = location.replace("KEY", str(tmp_path / "key"))
    text = f'[apps.a]\nserver_name = "a.b"\npassthrough = {{ upstream = [{{ location = "{location}" }}] }}\n'
    config = parse(f"listen_port_tls = {proxy.port}\n" + text, str(proxy.file))
    with pytest.raises(StartError, match=said):
        ProxyService(reactor, config, proxy.lines.append)


def test_listeners_are_endpoint_strings_and_each_is_there_once() -> None:
    config = parse(
        "listen_port_tls = 443\nlisten_ipv6 = true\ntcp_listen_backlog = 9\n"
        'listen_tls = ["tcp:8443", "fd:0", "tcp:8443"]\n'
        '[apps.a]\nserver_name = "a.b"\npassthrough = { upstream = [{ location = "127.0.0.1" }] }\n',
        "f.toml",
    )
    assert [(each.name, each.backlog) for each in wanted(config)] == [
        ("tcp:8443", 9),
        ("fd:0", 9),
        ("tcp:443:interface=0.0.0.0", 9),
        ("tcp6:443:interface=\\:\\:", 9),
    ]


def test_peeking_knows_the_files_times_and_proxies() -> None:
    text = (
        'listen_port_tls = 443\nhello_timeout = "4s"\n'
        'accept_proxy_protocol = { from = ["10.0.0.0/8"], required = true, timeout = "2s" }\n'
        '[apps.a]\nserver_name = "a.b"\npassthrough = { upstream = [{ location = "127.0.0.1" }] }\n'
    )
    options = peek_options(parse(text, "f.toml"))
    assert options.hello_timeout == 4.0
    assert options.proxy is not None
    assert (options.proxy.required, options.proxy.timeout) == (True, 2.0)
    assert ("10.1.2.3" in options.proxy.trusted, "11.1.2.3" in options.proxy.trusted) == (True, False)
