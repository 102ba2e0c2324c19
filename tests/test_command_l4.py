"""`rproxy l4`: what its options mean, and how it begins, goes wrong and ends."""

from __future__ import annotations

import argparse
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rproxy.command import _parser, main
from rproxy.command_l4 import OPTIONS, configuration, in_options
from rproxy.errors import ConfigError, Problem, StartError
from rproxy.proxy import _PLACES, RateLimitConfig
from tests.e2e.programs import PATIENCE, RPROXY, Program, Programs, free_port, until
from tests.e2e.streams import connect

CERTS = Path(__file__).parents[1] / "docs" / "examples" / "certs"
FILES = ("--ca", "ca.crt", "--cert", "server.crt", "--key", "server.key")


def options(*words: str) -> argparse.Namespace:
    return _parser().parse_args(["l4", ":5000", *FILES, "--upstream", "a:1", *words])


def test_the_least_that_has_to_be_said() -> None:
    config = configuration(options())
    listener, upstream = config.listener_config, config.upstream_config
    assert (listener.listener_addr, listener.ca, listener.certificate, listener.private_key) == (
        ":5000",
        "ca.crt",
        "server.crt",
        "server.key",
    )
    assert (upstream.name, upstream.targets, upstream.authorized_groups) == ("l4", ["a:1"], None)
    assert (config.rate_limit_config, config.timeout) == (None, "10m")


def test_all_that_can_be_said() -> None:
    words = [
        "--upstream",
        "b:1",
        "c:1",
        "--upstream",
        "unix:/d",
        "--group",
        "x",
        "--group",
        "y",
        "--name",
        "db",
    ]
    words += ["--capacity", "20", "--fill-rate", "1s", "--max-connections", "5", "--timeout", "90"]
    config = configuration(options(*words))
    assert config.upstream_config.targets == ["a:1", "b:1", "c:1", "unix:/d"]
    assert (config.upstream_config.name, config.upstream_config.authorized_groups) == ("db", ["x", "y"])
    assert config.rate_limit_config == RateLimitConfig(20, "1s", 5)
    assert config.timeout == 90.0


@pytest.mark.parametrize("left_out", ["--ca", "--cert", "--key", "--upstream"])
def test_what_has_to_be_said(left_out: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["l4", ":5000", *FILES, "--upstream", "a:1"]
    at = words.index(left_out)
    with pytest.raises(SystemExit) as ended:
        main(words[:at] + words[at + 2 :])
    assert ended.value.code == 2
    assert left_out in capsys.readouterr().err


def test_help_is_enough_to_begin_with(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["l4", "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "user@group" in told
    assert "rproxy l4 :5000 --ca ca.crt --cert server.crt --key server.key --upstream" in told


def test_mistakes_are_told_in_the_commands_words() -> None:
    problems = [
        Problem("Configuration", 0, 0, "upstream_config.targets[1]", "is wrong", "do this"),
        Problem("Configuration", 0, 0, "listener_config.ca", "is wrong"),
    ]
    assert str(in_options(ConfigError(problems))) == (
        "rproxy l4: --upstream[1]: is wrong\n    do this\nrproxy l4: --ca: is wrong"
    )
    other = StartError("a port is taken")
    assert in_options(other) is other


def test_every_place_of_the_library_is_an_option() -> None:
    assert {called for _, called in _PLACES} <= set(OPTIONS)
    written = _parser().parse_args(["l4", ":1", *FILES, "--upstream", "a:1"])
    for option in OPTIONS.values():
        for word in option.split(", "):
            name = word.removeprefix("--").replace("-", "_").lower()
            assert hasattr(written, name), option


# -- As a program -------------------------------------------------------------------------------------------


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    running = Programs(tmp_path)
    yield running
    running.end()


class Running:
    """The command in front of an echo server, with the certificates of the repository."""

    def __init__(self, programs: Programs, *words: str, port: int | None = None) -> None:
        target = free_port()
        echo = CERTS.parent / "echo.py"
        programs.start([sys.executable, echo, target], "echo")
        until(lambda: self._accepts(target), "an echo server")
        self.port = port or free_port()
        files = ["--ca", CERTS / "ca.crt", "--cert", CERTS / "server.crt", "--key", CERTS / "server.key"]
        self.program: Program = programs.start(
            [*RPROXY, "l4", f"127.0.0.1:{self.port}", *files, "--upstream", f"127.0.0.1:{target}", *words],
            "l4",
        )

    @staticmethod
    def _accepts(port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def client(self, who: str) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(CERTS / "ca.crt"))
        context.load_cert_chain(CERTS / f"{who}.crt", CERTS / f"{who}.key")
        return context.wrap_socket(connect(self.port), server_hostname="localhost")


def test_it_serves_until_it_is_told_to_stop(programs: Programs) -> None:
    """G-1."""
    running = Running(programs, "--group", "admin")
    running.program.says("rproxy listens on")
    with running.client("jbranham") as client:
        assert client.recv(100).startswith(b"echo at ")
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        with pytest.raises(OSError, match=r"(?i)access.denied"):
            running.client("alice").recv(1)
        running.program.signal(signal.SIGTERM)
        running.program.says("waiting for 1 connections")
        client.sendall(b"still here")
        assert client.recv(100) == b"still here"
    assert running.program.ended() == 0
    assert "user=alice@reports" in running.program.log
    assert "reason=not_authorised" in running.program.log
    assert "user=jbranham@admin" in running.program.log


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_the_second_signal_stops_at_once(programs: Programs, number: int) -> None:
    running = Running(programs)
    running.program.says("rproxy listens on")
    with running.client("alice") as client:
        assert client.recv(100).startswith(b"echo at ")
        running.program.signal(number)
        running.program.says("waiting for 1 connections")
        running.program.signal(signal.SIGTERM)
        assert running.program.ended(PATIENCE / 2) == 0


def test_a_port_that_is_taken_is_an_error_and_no_traceback(programs: Programs) -> None:
    """G-1: logged, exit 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        running = Running(programs, port=taken.getsockname()[1])
        assert running.program.ended() == 1
    assert (
        f"cannot listen on tcp:{running.port}:interface=127.0.0.1: Address already in use"
        in running.program.log
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--capacity", "5"],
            "rproxy l4: --capacity, --fill-rate: capacity and fill_rate only work together",
        ),
        (["--fill-rate", "soon", "--capacity", "1"], "rproxy l4: --fill-rate: expected a duration"),
        (["--upstream", "db"], 'rproxy l4: --upstream[1]: "db" has no port'),
        (["--timeout", "x"], "rproxy l4: --timeout: expected a duration"),
        (["--timeout", "²"], "rproxy l4: --timeout: expected a duration"),
        (["--cert", "/no/such"], "l4.l4: cannot read /no/such: No such file or directory"),
    ],
)
def test_a_mistake_ends_it_with_a_sentence(programs: Programs, words: list[Any], told: str) -> None:
    running = Running(programs, *words)
    assert running.program.ended() == 1
    assert told in running.program.log
    assert "Traceback" not in running.program.log
