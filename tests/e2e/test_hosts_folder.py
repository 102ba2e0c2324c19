"""`rproxy run --hosts DIR` on a socket that somebody else opened: a folder per name, no configuration."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import threading
import time
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.conftest import Peer, Serving
from tests.e2e.peers import Certificate, nginx
from tests.e2e.programs import NOBODY, RPROXY, TWISTD, Program, Programs, accepts, run
from tests.e2e.streams import (
    INTERNAL_ERROR,
    UNRECOGNIZED_NAME,
    all_of,
    ask,
    call,
    client_hello,
    echo,
    exactly,
    read_hello,
    saying,
)

CLIENT = "127.0.0.77"


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as opened:
        yield opened


def port_of(listening: socket.socket) -> int:
    number: int = listening.getsockname()[1]
    return number


def start(programs: Programs, hosts: Path, listening: socket.socket, *more: str) -> Program:
    """rproxy with `listening` as standard input, as systemd and inetd start it."""
    words = [*RPROXY, "run", "--hosts", hosts, *more]
    proxy = programs.start(words, "hosts", stdin=listening)
    proxy.says("rproxy listens on fd:0")
    return proxy


def host(hosts: Path, name: str) -> Path:
    """The place for the socket of a new host."""
    (hosts / name).mkdir()
    return hosts / name / "tls-socket"


def test_nginx_serves_a_name_by_owning_its_folder(
    programs: Programs, peer: Peer, certificate: Certificate, short_path: Path, listening: socket.socket
) -> None:
    start(programs, short_path, listening)
    port, path = port_of(listening), host(short_path, "a.test")
    assert ask(port, "a.test") == UNRECOGNIZED_NAME  # there is no socket yet
    server = (
        f"server {{ listen unix:{path} ssl; ssl_certificate {certificate.certificate};"
        f' ssl_certificate_key {certificate.key}; return 200 "for $ssl_server_name\\n"; }}'
    )
    nginx(programs, peer("nginx"), server, str(path))
    words = [peer("curl"), "--silent", "--cacert", certificate.certificate, "--noproxy", "*"]
    words += ["--max-time", "10", "--resolve", f"a.test:{port}:127.0.0.1", f"https://a.test:{port}/"]
    assert run(words).stdout == "for a.test\n"


def test_an_alias_is_a_symlink(
    programs: Programs, serving: Serving, short_path: Path, listening: socket.socket
) -> None:
    serving(saying(b"a"), host(short_path, "a.test"))
    (short_path / "www.a.test").symlink_to("a.test")
    start(programs, short_path, listening)
    assert ask(port_of(listening), "www.a.test") == b"a"
    (short_path / "www.a.test").unlink()
    assert ask(port_of(listening), "www.a.test") == UNRECOGNIZED_NAME
    assert ask(port_of(listening), "A.TEST") == b"a"


def test_a_switched_symlink_moves_new_connections_and_loses_none(
    programs: Programs, serving: Serving, short_path: Path, listening: socket.socket
) -> None:
    serving(saying(b"blue"), short_path / "blue")
    serving(saying(b"green"), short_path / "green")
    link = host(short_path, "a.test")
    link.symlink_to("../blue")
    start(programs, short_path, listening)
    finished = threading.Event()

    def keep_switching() -> None:
        colours = ["green", "blue"]
        while not finished.wait(0.01):
            colours.reverse()
            fresh = link.with_name("fresh")
            fresh.symlink_to(f"../{colours[0]}")
            fresh.rename(link)

    with ThreadPoolExecutor(9) as pool:
        switching = pool.submit(keep_switching)
        answers = Counter(pool.map(lambda _: ask(port_of(listening), "a.test"), range(1000)))
        finished.set()
        switching.result()
    assert set(answers) == {b"blue", b"green"}


@pytest.mark.parametrize("kind", ["file", "directory", "symlink"])
def test_send_proxy_v1_asks_for_the_header(
    programs: Programs, serving: Serving, short_path: Path, listening: socket.socket, kind: str
) -> None:
    def serve(stream: socket.socket) -> None:
        line = b""
        while not line.endswith(b"\r\n"):
            line += exactly(stream, 1)
        read_hello(stream)
        stream.sendall(line)

    serving(serve, host(short_path, "a.test"))
    wish = short_path / "a.test" / "send-proxy-v1"
    match kind:
        case "file":
            wish.touch()
        case "directory":
            wish.mkdir()
        case _:
            wish.symlink_to("tls-socket")
    start(programs, short_path, listening)
    with call(port_of(listening), "a.test", source=CLIENT) as client:
        expected = f"PROXY TCP4 {CLIENT} 127.0.0.1 {client.getsockname()[1]} {port_of(listening)}\r\n"
        assert all_of(client).decode() == expected


def test_hashed_names_serve_names_longer_than_a_socket_path(
    programs: Programs, serving: Serving, short_path: Path, listening: socket.socket
) -> None:
    name = ".".join(["a" * 60] * 3) + ".test"
    digest = urlsafe_b64encode(hashlib.blake2s(name.encode()).digest()).rstrip(b"=").decode()
    serving(saying(b"hashed"), host(short_path, digest))
    serving(saying(b"plain"), host(short_path, "a.test"))
    start(programs, short_path, listening, "--hashed")
    assert ask(port_of(listening), name) == b"hashed"
    assert ask(port_of(listening), "a.test") == UNRECOGNIZED_NAME
    assert run([*RPROXY, "hostname", "--hashed", name]).stdout == f"{digest}\n"


def test_a_name_that_nobody_serves_is_answered_with_alert_112(
    programs: Programs, serving: Serving, short_path: Path, listening: socket.socket
) -> None:
    port = port_of(listening)
    with socket.socket(socket.AF_UNIX) as dead:  # bound and closed: connecting is refused
        dead.bind(str(host(short_path, "refused.test")))
    host(short_path, "empty.test")
    (short_path / "file.test").touch()
    (short_path / "loop.test").symlink_to("loop.test")
    serving(saying(b"outside"), short_path / "tls-socket")
    start(programs, short_path, listening)
    for name in ("missing.test", "refused.test", "empty.test", "file.test", None):
        assert ask(port, name) == UNRECOGNIZED_NAME, name
    assert ask(port, "loop.test") in (UNRECOGNIZED_NAME, INTERNAL_ERROR)


def test_something_else_than_a_socket_is_answered_with_an_alert(
    programs: Programs, serving: Serving, short_path: Path, listening: socket.socket
) -> None:
    host(short_path, "plain.test").touch()
    host(short_path, "folder.test").mkdir()
    serving(saying(b"served"), host(short_path, "a.test"))
    start(programs, short_path, listening)
    for name in ("plain.test", "folder.test"):
        assert ask(port_of(listening), name) in (UNRECOGNIZED_NAME, INTERNAL_ERROR)
    assert ask(port_of(listening), "a.test") == b"served"


def test_a_folder_that_we_may_not_enter_is_answered_with_alert_112(
    programs: Programs, serving: Serving, short_path: Path, listening: socket.socket
) -> None:
    words = [*TWISTD, "-n", "--pidfile="]
    if os.getuid() == 0:  # root may enter everywhere, so be nobody
        words += [f"--uid={NOBODY}", f"--gid={NOBODY}"]
    serving(saying(b"secret"), host(short_path, "secret.test"))
    serving(saying(b"locked"), host(short_path, "locked.test"))
    path = host(short_path, "open.test")
    serving(saying(b"open"), path)
    path.chmod(0o666)
    (short_path / "locked.test" / "tls-socket").chmod(0o000)
    (short_path / "secret.test").chmod(0o000)
    proxy = programs.start([*words, "rproxy", "--hosts", short_path], "hosts", stdin=listening)
    proxy.says("rproxy listens on fd:0")
    assert ask(port_of(listening), "secret.test") == UNRECOGNIZED_NAME
    assert ask(port_of(listening), "locked.test") == UNRECOGNIZED_NAME
    assert ask(port_of(listening), "open.test") == b"open"


def test_sighup_frees_the_socket_finishes_connections_and_exits_0(
    programs: Programs, serving: Serving, short_path: Path, listening: socket.socket
) -> None:
    serving(echo, host(short_path, "a.test"))
    proxy = start(programs, short_path, listening)
    port = port_of(listening)
    with call(port, "a.test", b"x") as client:
        assert exactly(client, 1) == b"x"
        proxy.signal(signal.SIGHUP)
        proxy.says("waiting for 1 connections")
        listening.close()
        assert not accepts(("127.0.0.1", port))
        client.sendall(b"y")
        assert exactly(client, 1) == b"y"
    assert proxy.ended(5) == 0


@pytest.mark.parametrize("second", [signal.SIGHUP, signal.SIGTERM])
def test_a_second_signal_during_the_drain_is_no_accident(
    programs: Programs, serving: Serving, short_path: Path, listening: socket.socket, second: signal.Signals
) -> None:
    serving(echo, host(short_path, "a.test"))
    proxy = start(programs, short_path, listening)
    with call(port_of(listening), "a.test", b"x") as client:
        assert exactly(client, 1) == b"x"
        proxy.signal(signal.SIGHUP)
        proxy.says("waiting for 1 connections")
        proxy.signal(second)
        if second is signal.SIGTERM:  # whoever says so too is in a hurry
            assert all_of(client) == b""
            assert proxy.ended(5) == 1
            return
        client.sendall(b"y")
        assert exactly(client, 1) == b"y"
    assert proxy.ended(5) == 0


def test_a_successor_on_the_same_socket_serves_while_the_predecessor_drains(
    programs: Programs, serving: Serving, short_path: Path, listening: socket.socket
) -> None:
    serving(echo, host(short_path, "a.test"))
    old = start(programs, short_path, listening)
    port = port_of(listening)
    with call(port, "a.test", b"x") as client:
        assert exactly(client, 1) == b"x"
        old.signal(signal.SIGHUP)
        old.says("waiting for 1 connections")
        new = programs.start([*RPROXY, "run", "--hosts", short_path], "successor", stdin=listening)
        with call(port, "a.test", b"z") as second:
            assert exactly(second, 1) == b"z"
        new.says("name=a.test")
        client.sendall(b"y")
        assert exactly(client, 1) == b"y"
    assert old.ended(5) == 0


def test_connections_left_after_ten_seconds_make_the_exit_status_1(
    programs: Programs, serving: Serving, short_path: Path, listening: socket.socket
) -> None:
    serving(echo, host(short_path, "a.test"))
    proxy = start(programs, short_path, listening)
    with call(port_of(listening), "a.test", b"x") as client:
        assert exactly(client, 1) == b"x"
        client.settimeout(15)
        began = time.monotonic()
        proxy.signal(signal.SIGHUP)
        assert all_of(client) == b""
        assert 9.5 < time.monotonic() - began < 12
        assert proxy.ended() == 1
    assert "name=a.test" in proxy.log


def test_a_unix_socket_can_be_standard_input(programs: Programs, serving: Serving, short_path: Path) -> None:
    serving(saying(b"served"), host(short_path, "a.test"))
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
        listening.bind(str(short_path / "front"))
        listening.listen()
        start(programs, short_path, listening)
        client.settimeout(10)
        client.connect(str(short_path / "front"))

        client.sendall(client_hello("a.test"))
        assert all_of(client) == b"served"


def test_a_config_file_may_name_a_folder_too(programs: Programs, serving: Serving, short_path: Path) -> None:
    listed = serving(saying(b"listed"))
    serving(saying(b"folder"), host(short_path, "a.test"))
    serving(saying(b"hidden"), host(short_path, "b.test"))
    proxy = programs.rproxy(
        f'[hosts]\ndirectory = "{short_path}"\n'
        f'[apps.b]\nserver_name = "b.test"\npassthrough = {{ upstream = [{listed.location}] }}\n'
    )
    assert ask(proxy.port, "a.test") == b"folder"
    assert ask(proxy.port, "b.test") == b"listed"
    assert ask(proxy.port, "c.test") == UNRECOGNIZED_NAME


def test_hostname_prints_the_folder_of_a_name() -> None:
    assert run([*RPROXY, "hostname", "🕸💍.ws"]).stdout == "xn--sr8hvo.ws\n"
    assert run([*RPROXY, "hostname", "Bücher.Example."]).stdout == "xn--bcher-kva.example\n"


@pytest.mark.parametrize("name", ["", "a b", "..", "a/b", "x" * 64 + ".test"])
def test_hostname_refuses_what_can_be_no_folder(name: str) -> None:
    done: subprocess.CompletedProcess[str] = run([*RPROXY, "hostname", name])
    assert done.returncode == 1
    assert done.stderr.startswith("rproxy hostname: ")
    assert "Traceback" not in done.stderr
