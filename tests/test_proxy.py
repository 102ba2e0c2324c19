"""The library: a few objects make a proxy that listens, says what is wrong with them, and closes properly."""

from __future__ import annotations

import errno
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import async_yield_fixture, ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from rproxy import Configuration, ListenerConfig, Proxy, RateLimitConfig, UpstreamConfig
from rproxy.config.load import parse
from rproxy.errors import ConfigError, StartError
from rproxy.proxy import _most_clients, whole
from tests.fakes import Backend, LogLines, Wire, open_files, turn, until

ROOT = Path(__file__).parents[1]
CERTS = ROOT / "docs" / "examples" / "certs"
LISTENER = ListenerConfig(
    "tcp:0:interface=127.0.0.1", CERTS / "ca.crt", CERTS / "server.crt", CERTS / "server.key"
)


def talk(port: int, who: str, words: bytes = b"hello") -> Deferred[bytes]:
    """What a client with one of the example certificates gets for its words; b"" for nothing."""

    def client() -> bytes:
        context = ssl.create_default_context(cafile=str(CERTS / "ca.crt"))
        context.load_cert_chain(CERTS / f"{who}.crt", CERTS / f"{who}.key")
        with socket.create_connection(("127.0.0.1", port), 5) as plain:
            try:
                with context.wrap_socket(plain, server_hostname="localhost") as stream:
                    stream.sendall(words)
                    return stream.recv(100)
            except OSError as problem:
                return str(getattr(problem, "reason", problem)).encode()

    answer: Deferred[bytes] = deferToThread(client)
    return answer


class Stage:
    """A backend and proxies in front of it."""

    def __init__(self) -> None:
        self.backend = Backend()
        self.proxies = list[Proxy]()
        self.wires = list[Wire]()

    @property
    def upstream(self) -> UpstreamConfig:
        return UpstreamConfig("echo", [f"127.0.0.1:{self.backend.address[1]}"], ["admin"])

    def proxy(self, config: Any) -> Proxy:
        self.proxies.append(Proxy(config, reactor=reactor))
        return self.proxies[-1]

    async def start(self, **more: Any) -> tuple[Proxy, int]:
        proxy = self.proxy(Configuration(LISTENER, self.upstream, **more))
        (address,) = await proxy.listen()
        return proxy, address.port

    async def served(self, port: int) -> Wire:
        """The peer's end of a connection that a client with the right certificate has made."""
        answer = talk(port, "jbranham")
        self.wires.append(await self.backend.accept())
        await self.wires[-1].receive(5)
        await self.wires[-1].send(b"HELLO")
        assert await answer == b"HELLO"
        return self.wires[-1]


@async_yield_fixture()  # type: ignore[untyped-decorator]
async def stage() -> AsyncIterator[Stage]:
    files, made = open_files(), Stage()
    yield made
    for wire in made.wires:
        wire.close()
    for proxy in made.proxies:
        closing = proxy.close()
        proxy.abort()
        await closing
    made.backend.close()
    await until(lambda: open_files() <= files)


@ensureDeferred
async def test_it_listens_serves_and_closes(stage: Stage) -> None:
    """G-1, G-3, G-5, with the certificates of the repository."""
    proxy, port = await stage.start()
    assert [each.port for each in proxy.addresses] == [port]
    server = await stage.served(port)
    assert await talk(port, "alice") == b"TLSV1_ALERT_ACCESS_DENIED"
    assert stage.backend.try_accept() is None
    server.close()
    assert await proxy.close() is True
    assert proxy.addresses == ()
    assert is_refused(port)


@ensureDeferred
async def test_a_close_waits_for_the_connections_there_are(stage: Stage) -> None:
    """G-1: they are finished, and no new ones accepted."""
    proxy, port = await stage.start()
    client, server = await connected(stage, port)
    ended = list[bool]()
    first, second = proxy.close(), proxy.close()
    first.addCallback(ended.append)
    await until(lambda: is_refused(port))
    for _ in range(20):
        await turn()
    assert ended == []
    server.close()
    client.close()
    assert await second is True
    assert ended == [True]


@ensureDeferred
async def test_who_cannot_wait_aborts(stage: Stage) -> None:
    proxy, port = await stage.start()
    _, server = await connected(stage, port)
    ended = list[bool]()
    proxy.close().addCallback(ended.append)
    proxy.abort()
    await until(lambda: ended == [False])  # long before the ten seconds that a close has
    assert await server.ends() in ("eof", "reset")


def is_refused(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


async def connected(stage: Stage, port: int) -> tuple[Any, Wire]:
    """The two ends of a connection that stays."""
    context = ssl.create_default_context(cafile=str(CERTS / "ca.crt"))
    context.load_cert_chain(CERTS / "jbranham.crt", CERTS / "jbranham.key")

    def client() -> Any:
        plain = socket.create_connection(("127.0.0.1", port), 5)
        return context.wrap_socket(plain, server_hostname="localhost")

    made: Deferred[Any] = deferToThread(client)
    stage.wires.append(await stage.backend.accept())
    keep: Any = await made
    stage.wires.append(keep)
    return keep, stage.wires[-2]


@ensureDeferred
async def test_several_live_in_one_process(stage: Stage) -> None:
    one, first = await stage.start()
    _, second = await stage.start()
    await stage.served(first)
    await stage.served(second)
    closing = one.close()
    one.abort()
    await closing
    await stage.served(second)


@ensureDeferred
async def test_it_takes_no_signals(stage: Stage) -> None:
    """They belong to the program."""
    numbers = (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    proxy, _ = await stage.start()
    assert [signal.getsignal(number) for number in numbers] == before
    closing = proxy.close()
    assert [signal.getsignal(number) for number in numbers] == before
    await closing


@ensureDeferred
async def test_it_may_listen_again_once_it_is_closed(stage: Stage) -> None:
    proxy, _ = await stage.start()
    with pytest.raises(StartError, match="listens already"):
        await proxy.listen()
    assert await proxy.close() is True
    assert await proxy.close() is True
    (address,) = await proxy.listen()
    await stage.served(address.port)


@ensureDeferred
async def test_each_client_is_limited(stage: Stage) -> None:
    """G-6: by its common name, wherever it comes from."""
    _, port = await stage.start(rate_limit_config=RateLimitConfig(2, "1h"))
    for _ in range(2):
        await stage.served(port)
    assert await talk(port, "jbranham") == b"TLSV1_ALERT_INTERNAL_ERROR"
    assert stage.backend.try_accept() is None


@ensureDeferred
async def test_the_logger_gets_an_event_with_the_facts(stage: Stage) -> None:
    """G-2."""
    proxy, port = await stage.start(logger=Logger("mine"))
    with LogLines() as log:
        assert b"DENIED" in await talk(port, "alice")
        await proxy.close()
    (event,) = [event for event in log.events if event["log_namespace"] == "mine"]
    assert (event["user"], event["app"], event["reason"]) == ("alice@reports", "echo", "not_authorised")
    assert event["client"].startswith("127.0.0.1:")


@ensureDeferred
async def test_a_name_may_have_spaces(stage: Stage) -> None:
    """It is one word in the line and in the field; the rest is what it always was."""
    upstream = replace(stage.upstream, name="my db reason=closed")
    proxy = stage.proxy(Configuration(LISTENER, upstream, logger=Logger("mine")))
    (address,) = await proxy.listen()
    with LogLines() as log:
        assert b"DENIED" in await talk(address.port, "alice")
        assert await proxy.close() is True
    (event,) = [event for event in log.events if event["log_namespace"] == "mine"]
    assert (event["app"], event["reason"]) == ("my\\x20db\\x20reason=closed", "not_authorised")


@ensureDeferred
async def test_it_takes_a_whole_configuration_too(stage: Stage) -> None:
    peer = f"{{ location = '127.0.0.1:{stage.backend.address[1]}' }}"
    text = f"[l4.plain]\nlisten = 'tcp:0:interface=127.0.0.1'\nupstream = [{peer}]"
    proxy = stage.proxy(parse(text, "inline"))
    (address,) = await proxy.listen()
    stage.wires.append(Wire.to(("127.0.0.1", address.port)))
    stage.wires.append(await stage.backend.accept())


# -- Mistakes -----------------------------------------------------------------------------------------------


@ensureDeferred
async def test_a_port_that_is_taken_fails_with_a_sentence(stage: Stage) -> None:
    """G-1: a listen error is an error of `listen`, not a traceback."""
    address = f"127.0.0.1:{stage.backend.address[1]}"
    proxy = stage.proxy(Configuration(replace(LISTENER, listener_addr=address), stage.upstream))
    with pytest.raises(StartError, match="cannot listen on"):
        await proxy.listen()
    assert proxy.addresses == ()


def with_admin(stage: Stage, folder: Path) -> Any:
    """A whole configuration, with a port and an admin socket."""
    peer = f"{{ location = '127.0.0.1:{stage.backend.address[1]}' }}"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    service = f"[l4.plain]\nlisten = '127.0.0.1:{port}'\nupstream = [{peer}]"
    return parse(f"admin_socket = '{folder}/admin'\n{service}", "inline"), port


@ensureDeferred
async def test_a_start_that_fails_half_way_leaves_nothing_open(stage: Stage, tmp_path: Path) -> None:
    config, port = with_admin(stage, tmp_path)
    proxy = stage.proxy(config)
    with socket.socket(socket.AF_UNIX) as other, LogLines() as log:
        other.bind(str(tmp_path / "admin"))
        other.listen(1)
        with pytest.raises(StartError, match="another proxy listens on"):
            await proxy.listen()
        assert is_refused(port)
        assert proxy.addresses == ()
    assert [event for event in log.events if "log_failure" in event] == []
    (tmp_path / "admin").unlink()
    assert [address.port for address in await proxy.listen()] == [port]


@ensureDeferred
async def test_a_configuration_that_cannot_be_used_leaves_no_file_open(stage: Stage, tmp_path: Path) -> None:
    lines = ["listen = 'tcp:0:interface=127.0.0.1'"]
    for name, folder in (("a", tmp_path), ("b", tmp_path / "none")):
        lines += [f"[apps.{name}]", f"server_name = '{name}.test'", "reverse_proxy = { location = 'a:1' }"]
        lines += [f"access_log = {{ path = '{folder}/{name}.log' }}"]
    proxy = stage.proxy(parse("\n".join(lines), "inline"))
    with pytest.raises(StartError, match=r"b\.log cannot be opened"):
        await proxy.listen()
    opened = [os.readlink(each.path) for each in os.scandir("/proc/self/fd") if each.is_symlink()]
    assert str(tmp_path / "a.log") not in opened


@ensureDeferred
async def test_while_connections_end_a_successor_has_port_and_admin_socket(
    stage: Stage, tmp_path: Path
) -> None:
    config, port = with_admin(stage, tmp_path)
    proxy, successor = stage.proxy(config), stage.proxy(config)
    await proxy.listen()
    stage.wires += [Wire.to(("127.0.0.1", port)), await stage.backend.accept()]
    ended = list[bool]()
    proxy.close().addCallback(ended.append)
    await until(lambda: is_refused(port) and not (tmp_path / "admin").exists())
    assert [address.port for address in await successor.listen()] == [port]
    assert ended == []
    stage.wires[0].close()
    stage.wires[1].close()
    await until(lambda: ended == [True])
    assert (tmp_path / "admin").exists(), "it is the successor's now"


@ensureDeferred
async def test_a_certificate_that_is_not_there_fails_with_a_sentence(stage: Stage) -> None:
    proxy = stage.proxy(Configuration(replace(LISTENER, certificate="/no/such.crt"), stage.upstream))
    with pytest.raises(StartError, match=r"l4.echo: cannot read /no/such\.crt"):
        await proxy.listen()


GOOD = Configuration(LISTENER, UpstreamConfig("db", ["db:1"], ["admin"]), RateLimitConfig(1, 1.0))


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        ({"listener_config": replace(LISTENER, listener_addr="5000")}, "listener_config.listener_addr",
         '"5000" is no endpoint'),
        ({"listener_config": replace(LISTENER, ca="")}, "listener_config.ca", "expected a path"),
        ({"listener_config": replace(LISTENER, certificate="~/x")}, "listener_config.certificate", '"~/x"'),
        ({"listener_config": replace(LISTENER, private_key=5)}, "listener_config.private_key", "a path"),
        ({"upstream_config": UpstreamConfig("", ["a:1"], ["x"])}, "upstream_config.name", "a name"),
        ({"upstream_config": UpstreamConfig("a", [], ["x"])}, "upstream_config.targets", "an empty one"),
        ({"upstream_config": UpstreamConfig("a", ["b:1", "c"], None)}, "upstream_config.targets[1]",
         '"c" has no port'),
        ({"upstream_config": UpstreamConfig("a", 5, None)}, "upstream_config.targets[0]", "the number 5"),
        ({"upstream_config": UpstreamConfig("a", ["b:1", "b:1"], None)}, "upstream_config.targets[1]",
         "in this group already"),
        ({"upstream_config": UpstreamConfig("a", ["b:1"], [])}, "upstream_config.authorized_groups", "empty"),
        ({"upstream_config": UpstreamConfig("a", ["b:1"], [""])}, "upstream_config.authorized_groups[0]", ""),
        ({"rate_limit_config": RateLimitConfig(0, "1s")}, "rate_limit_config.capacity", "1 or more"),
        ({"rate_limit_config": RateLimitConfig(1, "soon")}, "rate_limit_config.fill_rate", "a duration"),
        ({"rate_limit_config": RateLimitConfig(1)}, "rate_limit_config", "only work together"),
        ({"timeout": -1}, "timeout", "from 0 to 365 days"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_by_the_name_it_has_here(change: dict[str, Any], place: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        whole(replace(GOOD, **change))
    (problem,) = caught.value.problems
    assert (problem.file, problem.key) == ("Configuration", place)
    assert message in problem.message
    assert str(caught.value).startswith(f"Configuration: {place}: ")


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        whole(Configuration(replace(LISTENER, listener_addr="x"), UpstreamConfig("a", [], None), timeout=-1))
    assert len(caught.value.problems) == 3


# -- One configuration --------------------------------------------------------------------------------------


def test_it_is_the_same_as_a_file_would_say(tmp_path: Path) -> None:
    """G-2: there is one model, and one place where values are read and checked."""
    config = Configuration(
        ListenerConfig(":5000", "ca.crt", "server.crt", "server.key"),
        UpstreamConfig("db", ["10.0.0.7:5432", "unix:/run/db.sock"], ["admin", "backup"]),
        RateLimitConfig(20, timedelta(seconds=1), 5),
        timeout=timedelta(minutes=1),
    )
    text = f"""
        max_clients = {_most_clients()}
        [l4.db]
        listen = ":5000"
        tls.tls_cert_path = "server.crt"
        tls.tls_cert_key_path = "server.key"
        tls.client_ca_cert_path = "ca.crt"
        upstream = [{{ location = "10.0.0.7:5432" }}, {{ location = "unix:/run/db.sock" }}]
        authorized_groups = ["admin", "backup"]
        rate_limit = {{ capacity = 20, fill_rate = "1s", max_connections = 5 }}
        timeout = "60s"
    """
    assert whole(config) == parse(text, "x.toml")


def test_one_text_is_one_value_and_not_its_characters() -> None:
    made = whole(replace(GOOD, upstream_config=UpstreamConfig("db", "db:1", "admin")))
    assert made.l4["db"].authorized_groups == ("admin",)
    assert [str(upstream.location) for upstream in made.l4["db"].upstream] == ["db:1"]


def test_groups_are_asked_for_unless_none_are_said() -> None:
    made = whole(replace(GOOD, upstream_config=UpstreamConfig("db", ["db:1"], None)))
    assert made.l4["db"].authorized_groups == ()


def test_importing_rproxy_stays_cheap() -> None:
    """No OpenSSL and no reactor, whatever is named; not even Twisted for rproxy alone."""
    code = (
        "import sys, rproxy\n"
        "assert not [name for name in sys.modules if name.startswith(('twisted', 'OpenSSL', 'pydantic'))]\n"
        "from rproxy import Configuration, ListenerConfig, Proxy, RateLimitConfig, UpstreamConfig\n"
        "heavy = {'OpenSSL', 'cryptography', 'pydantic', 'twisted.internet.reactor'}\n"
        "assert heavy.isdisjoint(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_what_rproxy_does_not_have_is_an_attribute_error() -> None:
    import rproxy

    with pytest.raises(AttributeError, match="has no attribute 'Proxi'"):
        rproxy.Proxi  # noqa: B018
    assert "Proxy" in rproxy.__all__
