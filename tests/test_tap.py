"""The options of `twistd rproxy`, and the service that they make."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.application.service import IService
from twisted.internet.defer import maybeDeferred
from twisted.python import usage

import rproxy
from rproxy import tap
from rproxy.config import load
from rproxy.errors import ConfigError, StartError
from rproxy.services.reload import fingerprint
from rproxy.tap import Options, makeService
from tests.fakes import LogLines, Wire, hello_bytes

APP = '[apps.a]\nserver_name = "a.b"\npassthrough = { upstream = [{ location = "127.0.0.1:9" }] }\n'


@pytest.fixture(autouse=True)
def hangup() -> Iterator[None]:
    """Making a service changes what SIGHUP does to this process."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def parsed(*words: str) -> Options:
    options = Options()
    options.parseOptions(list(words))
    return options


def config_file(directory: Path, text: str = "") -> str:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    path = directory / "rproxy.toml"
    path.write_text(text or f'listen_port_tls = {port}\nlisten_address_v4 = "127.0.0.1"\n{APP}')
    return str(path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "either --config FILE or --hosts DIR"),
        (["--config", "a", "--hosts", "b"], "either --config FILE or --hosts DIR"),
        (["--config", "a", "--hashed"], "--hashed goes with --hosts"),
        (["--nonsense"], "nonsense"),
        (["--config", "a", "stray"], ""),
    ],
)
def test_options_that_make_no_sense_say_so(words: list[str], said: str) -> None:
    with pytest.raises(usage.UsageError, match=said):
        parsed(*words)


@pytest.mark.parametrize(
    ("words", "config", "no_watch"),
    [
        (["--config", "f"], "f", 0),
        (["-c", "f", "-w"], "f", 0),
        (["--config=f", "--no-watch"], "f", 1),
    ],
)
def test_options_of_a_file(words: list[str], config: str, no_watch: int) -> None:
    options = parsed(*words)
    assert (options["config"], options["no-watch"], options["hosts"]) == (config, no_watch, None)


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed("--version")
    assert (ended.value.code, capsys.readouterr().out) == (0, f"rproxy {rproxy.described()}\n")


def test_a_service_is_made_and_nothing_listens_yet(tmp_path: Path) -> None:
    service: Any = makeService(parsed("--config", config_file(tmp_path)))
    assert IService.providedBy(service)
    assert service.listeners.ports == {}


def test_a_hangup_that_comes_too_early_is_not_the_end(tmp_path: Path) -> None:
    """Its default would end a process that has not begun to listen to signals."""
    makeService(parsed("--config", config_file(tmp_path)))
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@ensureDeferred
async def test_a_running_service_takes_the_hangup(tmp_path: Path) -> None:
    service: Any = makeService(parsed("--config", config_file(tmp_path)))
    service.privilegedStartService()
    service.startService()
    try:
        assert callable(signal.getsignal(signal.SIGHUP))
    finally:
        await maybeDeferred(service.stopService)


def test_what_is_saved_while_the_service_is_made_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(config_file(tmp_path))

    def slow(file: Any) -> Any:
        config = load.load(file)
        path.write_text(path.read_text() + "# one line more\n")
        return config

    before = fingerprint(path)
    monkeypatch.setattr("rproxy.config.load", SimpleNamespace(load=slow))
    monkeypatch.setitem(sys.modules, "rproxy.config.load", SimpleNamespace(load=slow))
    service: Any = makeService(parsed("--config", str(path)))
    assert service._watch._seen == before != fingerprint(path)


def test_the_package_makes_the_same_from_a_path(tmp_path: Path) -> None:
    assert IService.providedBy(rproxy.makeService(Path(config_file(tmp_path))))


def test_a_file_that_is_wrong_raises_all_its_mistakes(tmp_path: Path) -> None:
    path = config_file(tmp_path, "nonsense = 1\nmore_nonsense = 2\n")
    with pytest.raises(ConfigError) as error:
        makeService(parsed("--config", path))
    assert {"nonsense", "more_nonsense"} <= {problem.key for problem in error.value.problems}


def test_watching_is_the_default(tmp_path: Path) -> None:
    path = config_file(tmp_path)
    names = [
        [child.name for child in makeService(parsed("--config", path, *more))]  # type: ignore[attr-defined]
        for more in ([], ["--no-watch"])
    ]
    assert ["config watch" in each for each in names] == [True, False]


def test_hosts_have_to_be_a_directory(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="is not a directory"):
        makeService(parsed("--hosts", str(tmp_path / "no")))


@ensureDeferred
async def test_hosts_are_served_on_standard_input(tmp_path: Path, capfd: Any) -> None:
    """S-1: a socket that was handed over as fd 0, and no file."""
    saved, listening = os.dup(0), socket.create_server(("127.0.0.1", 0))
    os.dup2(listening.fileno(), 0)
    try:
        service: Any = makeService(parsed("--hosts", str(tmp_path)))
        service.privilegedStartService()
        service.startService()
        wire = Wire.to(listening.getsockname())
        await wire.send(hello_bytes("nobody.example"))
        assert await wire.ends() == "eof"
        assert wire.got == bytes.fromhex("15030300020270")
        wire.close()
        await maybeDeferred(service.stopService)
    finally:
        listening.close()
        os.dup2(saved, 0)
        os.close(saved)


@pytest.mark.parametrize(
    ("twistd", "direct"),
    [
        ({"nodaemon": 1}, True),
        ({"nodaemon": 1, "logfile": "x"}, False),
        ({"nodaemon": 1, "syslog": 1}, False),
        ({"nodaemon": 0}, False),
        (None, False),
    ],
)
def test_the_connection_log_goes_where_the_log_goes(twistd: Any, direct: bool) -> None:
    options = parsed("--config", "f")
    options.parent = twistd
    assert (tap._sink(options) is not tap._to_log) == direct


def test_lines_in_the_log_are_events_of_their_own() -> None:
    with LogLines() as log:
        tap._to_log(b"one {brace}\ntwo\n")
    assert log.texts("rproxy.tap") == ["one {brace}", "two"]
