"""`rproxy ban` and the like: what they ask, what they print, and the status they end with."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rproxy.command import main
from rproxy.errors import UserError
from tests.test_command_status import STATUS, TEXT


class Proxy:
    """Answers what it is told to answer."""

    def __init__(self, path: Path) -> None:
        self.path, self.answer, self.asked = path, b"{}\n", list[Any]()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self._listening.accept()
            except OSError:
                return
            with line, line.makefile("rb") as stream:
                request = stream.readline()
                if request:
                    self.asked.append(json.loads(request))
                line.sendall(self.answer)

    def says(self, answer: Any) -> None:
        self.answer = json.dumps(answer).encode() + b"\n"

    def end(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(5)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    made = Proxy(tmp_path / "s")
    yield made
    made.end()


def run(proxy: Proxy, *words: str) -> int:
    return main([*words, "--socket", str(proxy.path)])


@pytest.mark.parametrize(
    ("words", "request_"),
    [
        (("ban", "192.0.2.7"), {"ask": "ban", "address": "192.0.2.7"}),
        (("ban", "10.0.0.0/8", "--for", "1h"), {"ask": "ban", "address": "10.0.0.0/8", "seconds": 3600.0}),
        (("ban", "::1", "--for", "90"), {"ask": "ban", "address": "::1", "seconds": 90.0}),
    ],
)
def test_a_ban_is_asked_for(
    proxy: Proxy, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], request_: object
) -> None:
    proxy.says({"banned": "192.0.2.7 2026-11-21T13:00:00Z"})
    assert run(proxy, *words) == 0
    assert proxy.asked == [request_]
    assert capsys.readouterr().out == "banned: 192.0.2.7 2026-11-21T13:00:00Z\n"


def test_a_warning_comes_with_the_answer(proxy: Proxy, capsys: pytest.CaptureFixture[str]) -> None:
    proxy.says({"banned": "192.0.2.7", "warning": "a restart forgets this"})
    assert run(proxy, "ban", "192.0.2.7") == 0
    assert capsys.readouterr().err == "warning: a restart forgets this\n"


@pytest.mark.parametrize(
    ("was", "text"), [(True, "192.0.2.7 may come again\n"), (False, "192.0.2.7 was not banned\n")]
)
def test_unban_says_whether_there_was_a_ban(
    proxy: Proxy, capsys: pytest.CaptureFixture[str], was: bool, text: str
) -> None:
    proxy.says({"unbanned": "192.0.2.7", "was_banned": was})
    assert run(proxy, "unban", "192.0.2.7") == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"count": 0, "bans": []}, "nobody is banned\n"),
        (
            {
                "count": 12,
                "bans": [
                    {"address": "192.0.2.7", "until": "2026-11-21T13:00:00Z", "note": "jail: status 401"},
                    {"address": "10.0.0.0/8", "until": None, "note": ""},
                ],
            },
            "192.0.2.7  until 2026-11-21T13:00:00Z  jail: status 401\n10.0.0.0/8\n"
            "and 10 more: see the ban_list\n",
        ),
    ],
)
def test_bans_are_a_list(proxy: Proxy, capsys: pytest.CaptureFixture[str], answer: object, text: str) -> None:
    proxy.says(answer)
    assert run(proxy, "bans") == 0
    assert capsys.readouterr().out == text


def test_the_status_is_for_people_or_for_programs(proxy: Proxy, capsys: pytest.CaptureFixture[str]) -> None:
    proxy.says(STATUS)
    assert run(proxy, "status") == 0
    assert capsys.readouterr().out == TEXT
    assert run(proxy, "status", "--json") == 0
    assert json.loads(capsys.readouterr().out) == STATUS


def test_a_proxy_of_another_version_is_told_from_one_that_is_broken(
    proxy: Proxy, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.says({"version": "9.0", "pid": 7, "connections": 3})
    with pytest.raises(UserError, match="of another version; --json"):
        run(proxy, "status")
    assert run(proxy, "status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["version"] == "9.0"


def test_a_reload_that_is_refused_ends_with_1_and_its_mistakes(
    proxy: Proxy, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.says({"reloaded": True})
    assert run(proxy, "reload") == 0
    assert capsys.readouterr().out == "reloaded\n"
    proxy.says({"error": "x.toml:1:1: no such key"})
    assert run(proxy, "reload") == 1
    assert capsys.readouterr().err == "rproxy reload: x.toml:1:1: no such key\n"
    assert run(proxy, "reload", "--json") == 1
    assert json.loads(capsys.readouterr().err) == {"error": "x.toml:1:1: no such key"}


def test_the_config_file_says_where_the_socket_is(
    proxy: Proxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.says({"count": 0, "bans": []})
    file = tmp_path / "rproxy.toml"
    app = '[apps.a]\nserver_name = "a.test"\npassthrough = { upstream = [{ location = "a" }] }\n'
    file.write_text(f'listen_port_tls = 443\nadmin_socket = "s"\n{app}')
    assert main(["bans", "-c", str(file)]) == 0
    file.write_text(f"listen_port_tls = 443\n{app}")
    with pytest.raises(UserError, match="has no admin_socket"):
        main(["bans", "-c", str(file)])
    with pytest.raises(UserError, match="no such file"):
        main(["bans", "-c", str(tmp_path / "other.toml")])


@pytest.mark.parametrize("answer", [b"", b"hello\n", b"[]\n", b"\xff\n"])
def test_what_is_no_answer_is_told(proxy: Proxy, answer: bytes) -> None:
    proxy.answer = answer
    with pytest.raises(UserError, match="is it the admin_socket of an rproxy"):
        run(proxy, "status")


def test_nobody_who_answers_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does it run"):
        main(["status", "--socket", str(tmp_path / "nobody")])
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left"))
    with pytest.raises(UserError, match="does it run"):
        main(["status", "--socket", str(tmp_path / "left")])
    with pytest.raises(UserError, match="too long"):
        main(["status", "--socket", "/" + "x" * 200])


@pytest.mark.parametrize("time", ["soon", "1d", "-5", "", "²", "1.²", "٣"])
def test_a_time_that_is_none_is_told(proxy: Proxy, time: str) -> None:
    with pytest.raises(UserError, match="expected a duration"):
        run(proxy, "ban", "192.0.2.7", f"--for={time}")
    assert proxy.asked == []
