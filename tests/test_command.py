"""The `rproxy` command: what it prints, where, and the status it ends with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import rproxy
from rproxy.command import main
from rproxy.wire.hostname import hashed

GOOD = (
    "listen_port_tls = 8443\n"
    '[apps.a]\nserver_name = "a.b"\npassthrough = { upstream = [{ location = "127.0.0.1:9" }] }\n'
)


class Ended(NamedTuple):
    status: int
    out: str
    err: str


class Command:
    def __init__(self, capsys: pytest.CaptureFixture[str], directory: Path) -> None:
        self._capsys, self._directory = capsys, directory

    def __call__(self, *words: str) -> Ended:
        try:
            status = main(words)
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        seen = self._capsys.readouterr()
        return Ended(status, seen.out, seen.err)

    def file(self, text: str) -> str:
        path = self._directory / "rproxy.toml"
        path.write_text(text)
        return str(path)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    return Command(capsys, tmp_path)


@pytest.mark.parametrize("words", [["check"], ["check", "-c"], ["check", "--config"], ["-t"], ["-t", "-c"]])
def test_a_good_file_has_no_problems(command: Command, words: list[str]) -> None:
    path = command.file(GOOD)
    assert command(*words, path) == (0, f"{path}: no problems found\n", "")


def test_every_mistake_is_listed_with_its_place_and_counted(command: Command) -> None:
    path = command.file("nonsense = 1\n" + GOOD + "more = 2\n")
    ended = command("check", path)
    assert (ended.status, ended.out) == (1, "")
    assert f"{path}:1:1: nonsense: " in ended.err
    assert f"{path}:6:1: apps.a.more: " in ended.err
    assert ended.err.endswith(f"\n\n2 problems in {path}\n")


def test_one_mistake_is_one_problem(command: Command) -> None:
    path = command.file("nonsense = 1\n" + GOOD)
    assert command("check", path).err.endswith(f"\n\n1 problem in {path}\n")


def test_a_file_that_is_not_there_is_a_mistake(command: Command, tmp_path: Path) -> None:
    ended = command("check", str(tmp_path / "no.toml"))
    assert ended.status == 1
    assert "there is no such file" in ended.err


def test_checking_nothing_is_a_mistake_in_the_command(command: Command) -> None:
    ended = command("check")
    assert (ended.status, ended.out) == (2, "")
    assert "which file?" in ended.err


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("Bücher.example", "xn--bcher-kva.example"),
        ("🕸💍.ws", "xn--sr8hvo.ws"),
        ("Example.ORG.", "example.org"),
    ],
)
def test_a_name_in_any_alphabet_has_its_folder(command: Command, name: str, folder: str) -> None:
    assert command("hostname", name) == (0, folder + "\n", "")
    assert command("hostname", "--hashed", name) == (0, hashed(folder) + "\n", "")


@pytest.mark.parametrize("name", ["a..b", "under_score.example", "", "x" * 300])
def test_what_is_no_name_says_why(command: Command, name: str) -> None:
    ended = command("hostname", name)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("rproxy hostname: ")
    assert "Traceback" not in ended.err


def test_the_version(command: Command) -> None:
    assert command("--version") == (0, f"rproxy {rproxy.described()}\n", "")


def test_without_a_command_there_is_help_and_status_2(command: Command) -> None:
    ended = command()
    assert ended.status == 2
    for word in ("run", "check", "hostname", "examples:"):
        assert word in ended.out


@pytest.mark.parametrize(
    "words",
    [["run"], ["run", "--config", "a", "--hosts", "b"], ["nonsense"], ["check", "a", "b"], ["hostname"]],
)
def test_a_mistake_in_the_command_is_status_2(command: Command, words: list[str]) -> None:
    ended = command(*words)
    assert ended.status == 2
    assert "usage: rproxy" in ended.err


def run(*words: str) -> Ended:
    ended = subprocess.run(
        [sys.executable, "-m", "rproxy.command", *words], capture_output=True, text=True, timeout=20
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def test_the_statuses_reach_the_shell(command: Command) -> None:
    assert run("check", command.file(GOOD)).status == 0
    assert run("check", command.file("x = 1")).status == 1
    assert run().status == 2


def test_running_a_broken_file_is_text_and_status_1(command: Command) -> None:
    ended = run("run", "--config", command.file("nonsense = 1\n" + GOOD))
    assert ended.status == 1
    assert "nonsense" in ended.out + ended.err
    assert "Traceback" not in ended.out + ended.err


def test_running_a_port_that_is_taken_is_text_and_status_1(command: Command, tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = GOOD.replace("8443", f'{port}\nlisten_address_v4 = "127.0.0.1"')
        ended = run("run", "--config", command.file(text))
    assert ended.status == 1
    assert "Address already in use" in ended.out + ended.err
    assert "Traceback" not in ended.out + ended.err
