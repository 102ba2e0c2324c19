"""What can be wrong at the start: exit status 1, a text that helps, never a traceback."""

from __future__ import annotations

import shlex
import socket
import subprocess
from pathlib import Path

import pytest

from tests.e2e.programs import RPROXY, TWIST, TWISTD, free_port, run

APP = '[apps.a]\nserver_name = "a.test"\npassthrough = { upstream = [{ location = "127.0.0.1:1" }] }\n'

TEN_MISTAKES = """\
listen_port_tls = 99999
listen_address_v4 = "127.0.0.300"
max_clients = -1
hello_timeout = "soon"
max_client_per_ip = 3
default_passthrough = "nobody"

[apps.a]
server_name = "a b.test"
passthrough = { upstream = [] }

[apps.b]
server_name = "b.test"
passthrough = { upstream = [{ location = "127.0.0.1:1" }], proxy_protocol = "v3" }

[apps.c]
server_name = "c.test"
passthrough = { upstream = [{ location = "127.0.0.1:1", weight = 0 }], load_balance = "fair" }
"""


def refused(done: subprocess.CompletedProcess[str], *texts: str) -> str:
    """Check that a program did not start and said each of these texts; returns all it said."""
    assert done.returncode == 1, done
    assert "Traceback" not in done.stdout + done.stderr
    for text in texts:
        assert text in done.stderr, done.stderr
    return done.stderr


def start(config: Path) -> subprocess.CompletedProcess[str]:
    return run([*RPROXY, "run", "--config", config])


def test_a_taken_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = tmp_path / "rproxy.toml"
        config.write_text(f'listen_address_v4 = "127.0.0.1"\nlisten_port_tls = {port}\n{APP}')
        refused(start(config), str(port), "Address already in use", "ss -ltnp")


def test_several_listeners_that_cannot_be_opened_are_all_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = [taken.getsockname()[1] for taken in (one, two)]
        config = tmp_path / "rproxy.toml"
        listen = ", ".join(f'"tcp:{port}:interface=127.0.0.1"' for port in ports)
        config.write_text(f"listen_tls = [{listen}]\n{APP}")
        refused(start(config), *map(str, ports))


def test_an_address_that_this_machine_has_not(tmp_path: Path) -> None:
    config = tmp_path / "rproxy.toml"
    config.write_text(f'listen_address_v4 = "192.0.2.1"\nlisten_port_tls = {free_port()}\n{APP}')
    refused(start(config), "192.0.2.1", "no such address")


def test_a_missing_config_file(tmp_path: Path) -> None:
    refused(start(tmp_path / "gone.toml"), str(tmp_path / "gone.toml"))


def test_a_directory_instead_of_a_config_file(tmp_path: Path) -> None:
    refused(start(tmp_path), str(tmp_path))


def test_a_file_that_is_no_toml_is_pointed_into(tmp_path: Path) -> None:
    config = tmp_path / "rproxy.toml"
    config.write_text("listen_port_tls = 443\nmax_clients = = 3\n")
    refused(start(config), "rproxy.toml:2:")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    config = tmp_path / "rproxy.toml"
    config.write_bytes(b"\xff\xfe\x00\x80" * 100)
    refused(start(config), "rproxy.toml")


@pytest.mark.parametrize("words", [["run", "--config"], ["check"]], ids=["run", "check"])
def test_ten_mistakes_in_a_file_are_all_named_with_their_places(tmp_path: Path, words: list[str]) -> None:
    config = tmp_path / "rproxy.toml"
    config.write_text(TEN_MISTAKES)
    said = refused(run([*RPROXY, *words, config]), "max_clients_per_ip", "default_passthrough", "^")
    lines = [1, 2, 3, 4, 5, 6, 9, 10, 14, 18]
    assert [line for line in lines if f"rproxy.toml:{line}:" not in said] == []


@pytest.mark.parametrize("program", [[*TWISTD, "-n", "--pidfile="], [*TWISTD, "--pidfile=pid"], TWIST])
def test_twistd_and_twist_say_the_same(tmp_path: Path, program: list[str]) -> None:
    config = tmp_path / "rproxy.toml"
    config.write_text(TEN_MISTAKES)
    done = run([*program, "rproxy", "--config", config], cwd=tmp_path)
    refused(done, "rproxy.toml:5:", "max_clients_per_ip")
    assert not (tmp_path / "pid").exists()


def test_twistd_as_a_daemon_tells_its_starter_about_a_taken_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = tmp_path / "rproxy.toml"
        config.write_text(
            f'listen_address_v4 = "127.0.0.1"\nlisten_port_tls = {taken.getsockname()[1]}\n{APP}'
        )
        words = [*TWISTD, "--pidfile=pid", "--logfile=log", "rproxy", "--config", config]
        done = run(words, cwd=tmp_path)
    assert done.returncode == 1
    assert "Address already in use" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "pid").exists()


def test_a_hosts_directory_that_is_missing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        done = run([*RPROXY, "run", "--hosts", tmp_path / "gone"], stdin=listening)
    refused(done, f"{tmp_path / 'gone'} is not a directory")


def test_a_missing_hosts_directory_of_a_config_file(tmp_path: Path) -> None:
    config = tmp_path / "rproxy.toml"
    config.write_text(
        f'listen_address_v4 = "127.0.0.1"\nlisten_port_tls = {free_port()}\n[hosts]\ndirectory="gone"'
    )
    refused(start(config), "gone", "not a directory")


def test_standard_input_that_is_no_socket(tmp_path: Path) -> None:
    refused(run([*RPROXY, "run", "--hosts", tmp_path]), "fd:0", "has to be a listening socket")


def test_standard_input_that_is_closed(tmp_path: Path) -> None:
    words = shlex.join(map(str, [*RPROXY, "run", "--hosts", tmp_path]))
    refused(run(["sh", "-c", f"exec {words} <&-"]), "fd:0")


def test_standard_input_that_is_a_connection(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        refused(run([*RPROXY, "run", "--hosts", tmp_path], stdin=theirs), "fd:0", "listening")


@pytest.mark.parametrize(
    "words",
    [["run"], ["run", "--config", "x", "--hosts", "y"], ["walk"], ["run", "--confg", "x"], [], ["check"]],
    ids=" ".join,
)
def test_a_wrong_command_line_is_explained(words: list[str]) -> None:
    done = run([*RPROXY, *words])
    assert done.returncode == 2
    assert "rproxy" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
