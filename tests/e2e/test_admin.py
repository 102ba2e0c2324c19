"""`rproxy status`, `certs`, `reload`, `ban` with a proxy that runs, and who may ask."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rproxy.command_admin import ask as ask_proxy
from rproxy.errors import UserError
from tests.e2e.conftest import Serving
from tests.e2e.identities import Identities
from tests.e2e.identities import echo as plain_echo
from tests.e2e.programs import NOBODY, RPROXY, Programs, free_port, run, until
from tests.e2e.streams import Backend, ask, call, echo, exactly, saying
from tests.tlspeers import days, make


def app(backend: Backend, more: str = "") -> str:
    return f'[apps.a]\nserver_name = "a.test"\n{more}passthrough = {{ upstream = [{backend.location}] }}\n'


def admin(folder: Path) -> str:
    return f'admin_socket = "{folder}/s"\n'


def test_the_status_tells_what_is_open_and_who_is_down(
    programs: Programs, serving: Serving, short_path: Path
) -> None:
    backend, dead = serving(echo), free_port()
    limit = 'rate_limit = { capacity = 5, fill_rate = "1s", max_connections = 4 }\n'
    peers = f'[{{ location = "127.0.0.1:{dead}" }}, {backend.location}]'
    proxy = programs.rproxy(
        admin(short_path)
        + f'[apps.a]\nserver_name = "a.test"\n{limit}passthrough = {{ upstream = {peers} }}\n'
    )
    with call(proxy.port, "a.test", b"x") as stream:
        assert exactly(stream, 1) == b"x"
        done = run([*RPROXY, "status", "--json", "--config", proxy.config])
        status = json.loads(done.stdout)
        text = run([*RPROXY, "status", "--socket", short_path / "s"]).stdout
    assert status["pid"] == proxy.pid
    assert status["connections"] == {"open": 1, "most": 512, "most_per_client": None}
    assert [each["speaks"] for each in status["listeners"]] == ["tls"]
    (one,) = status["apps"]
    assert (one["name"], one["names"], one["serves"]) == ("a", ["a.test"], ["passthrough"])
    assert [(peer["state"], peer["open"]) for peer in one["peers"]] == [("down", 0), ("up", 1)]
    (found,) = status["limits"]
    assert (found["name"], found["open"], found["clients"]) == ("apps.a.rate_limit", 1, 1)
    assert re.search(rf"^    passthrough  127\.0\.0\.1:{dead} +down  0 open$", text, re.MULTILINE)
    assert "connections: 1 of 512\n" in text


def test_the_status_tells_of_every_kind_of_route(
    programs: Programs, serving: Serving, short_path: Path, tmp_path: Path
) -> None:
    """HTTP and streams of one app, the hosts folder, a service and who is connected to it."""
    backend, dead, identities = serving(plain_echo), free_port(), Identities(tmp_path / "identities")
    port = free_port()
    proxy = programs.rproxy(
        admin(short_path)
        + f'hosts = {{ directory = "{short_path}" }}\n'
        + f'listen = "tcp:{free_port()}:interface=127.0.0.1"\n'
        + f'[apps.a]\nserver_name = "a.test"\npassthrough = {{ upstream = [{backend.location}] }}\n'
        + f'reverse_proxy = [{{ path = "/x", upstream = [{{ location = "127.0.0.1:{dead}" }}],'
        + ' health_check = { interval = "1s", timeout = "500ms", unhealthy_threshold = 1 } }]\n'
        + f'[l4.db]\nlisten = "127.0.0.1:{port}"\nupstream = [{backend.location}]\n{identities.tls}'
    )

    def told() -> Any:
        return json.loads(run([*RPROXY, "status", "--json", "--socket", short_path / "s"]).stdout)

    with identities.connect(port, "bob") as one, identities.connect(port, "bob") as two:
        for stream in (one, two):
            stream.sendall(b"x")
            assert stream.recv(1) == b"x"
        until(lambda: told()["apps"][0]["peers"][1]["state"] == "unhealthy", "the health check")
        status = told()
        text = run([*RPROXY, "status", "--socket", short_path / "s"]).stdout
    assert sorted(each["speaks"] for each in status["listeners"]) == ["http", "l4", "tls"]
    assert status["hosts"] == {"directory": str(short_path), "hashed": False}
    (database,) = status["l4"]
    assert database["clients"] == [{"client": "bob@admin", "open": 2}]
    assert (database["open"], database["peers"][0]["open"], database["peers"][0]["state"]) == (2, 2, "up")
    assert [peer["for"] for peer in status["apps"][0]["peers"]] == ["passthrough", "/x"]
    assert "l4 db: client certificates, 2 open\n" in text
    assert "    client  bob@admin  2 open\n" in text
    assert f"hosts folder {short_path}\n" in text
    until(lambda: len(proxy.ends()) == 2, "both ends")
    assert told()["l4"][0]["clients"] == []


def test_the_certificates_are_those_that_are_served(
    programs: Programs, serving: Serving, short_path: Path, tmp_path: Path
) -> None:
    """Of apps and of services; what stands in the files by now is another question."""
    identities, backend, port = Identities(tmp_path / "identities"), serving(echo), free_port()
    proxy = programs.rproxy(
        f'{admin(short_path)}state_directory = "{tmp_path}/state"\n'
        + '[apps.site]\nserver_name = "a.test"\ntls = { self_signed = true }\n'
        + 'reverse_proxy = { location = "demo:" }\n'
        + f'[l4.db]\nlisten = "127.0.0.1:{port}"\nupstream = [{backend.location}]\n{identities.tls}'
    )
    make("other.test", ends=days(5)).write(
        tmp_path / "identities", "server"
    )  # is looked at every five seconds

    def told(*words: str) -> Any:
        return json.loads(run([*RPROXY, "certs", "--json", "-c", proxy.config, *words]).stdout)

    site, database = told()
    assert (site["app"], site["source"], site["names"]) == ("site", "self-signed", ["a.test"])
    assert site["listeners"] == [f"tcp:{proxy.port}:interface=127.0.0.1"]
    assert (database["app"], database["source"]) == ("l4.db", "files")
    assert database["listeners"] == [f"tcp:{port}:interface=127.0.0.1"]
    with identities.connect(port) as stream:
        shown = stream.getpeercert()
    assert shown is not None
    ends = datetime.strptime(str(shown["notAfter"]), "%b %d %H:%M:%S %Y %Z").replace(tzinfo=UTC)
    assert datetime.fromisoformat(database["not_after"]) == ends
    assert set(database["good_for"]) == {"localhost", "a.test", "b.test", "127.0.0.1"}
    assert (database["served"], database["days_left"] > 20) == (True, True)
    (_, written) = told("--files")
    assert (written["good_for"], written["served"], written["days_left"] <= 5) == (
        ["other.test"],
        False,
        True,
    )
    text = run([*RPROXY, "certs", "--socket", short_path / "s"]).stdout
    assert "l4.db\n    names         any\n    good for      " in text
    proxy.signal(signal.SIGTERM)
    proxy.ended()
    done = run([*RPROXY, "certs", proxy.config])
    assert (done.returncode, "these are the files" in done.stderr) == (0, True)
    assert "good for      other.test\n" in done.stdout


def test_a_reload_is_done_or_told_why_not(programs: Programs, serving: Serving, short_path: Path) -> None:
    first, second = serving(saying(b"first")), serving(saying(b"second"))
    proxy = programs.rproxy(admin(short_path) + app(first), more=["--no-watch"])
    proxy.write(admin(short_path) + app(second))
    assert ask(proxy.port, "a.test") == b"first"
    assert run([*RPROXY, "reload", "--socket", short_path / "s"]).stdout == "reloaded\n"
    assert ask(proxy.port, "a.test") == b"second"
    proxy.write(admin(short_path) + "listn = 5\n" + app(first))
    done = run([*RPROXY, "reload", "--socket", short_path / "s"])
    assert (done.returncode, done.stdout) == (1, "")
    assert 'unknown key "listn"' in done.stderr
    assert ask(proxy.port, "a.test") == b"second"


def test_a_reload_moves_the_socket(programs: Programs, serving: Serving, short_path: Path) -> None:
    backend = serving(saying(b"hello"))
    proxy = programs.rproxy(admin(short_path) + app(backend))
    proxy.reload(f'admin_socket = "{short_path}/other"\n' + app(backend))
    assert run([*RPROXY, "bans", "--socket", short_path / "other"]).returncode == 0
    until(lambda: not (short_path / "s").exists(), "the old one is gone")
    proxy.reload(app(backend))
    until(lambda: not (short_path / "other").exists(), "the new one is gone, too")
    done = run([*RPROXY, "bans", "--config", proxy.config])
    assert (done.returncode, "has no admin_socket" in done.stderr) == (1, True)


def test_nobody_but_the_owner_may_ask(programs: Programs, serving: Serving, short_path: Path) -> None:
    programs.rproxy(admin(short_path) + app(serving(saying(b"hello"))))
    assert stat.S_IMODE(os.stat(short_path / "s").st_mode) == 0o600
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    told = _as_nobody(str(short_path / "s"))
    assert told == f"{short_path}/s: only the user that the proxy runs as, and root, may ask it"


def _as_nobody(path: str) -> str:
    """What the command says to somebody else; the interpreter may be where only root can start it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(writing, str(ask_proxy(path, {"ask": "bans"})).encode())
        except UserError as told:
            os.write(writing, str(told).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text


def test_a_killed_proxy_s_socket_is_taken_over_and_a_living_one_s_is_not(
    programs: Programs, serving: Serving, short_path: Path, tmp_path: Path
) -> None:
    backend = serving(saying(b"hello"))
    first = programs.rproxy(admin(short_path) + app(backend))
    config = tmp_path / "second.toml"
    config.write_text(f"listen_port_tls = {free_port()}\n{admin(short_path)}{app(backend)}")
    done = run([*RPROXY, "run", "-c", config])
    assert done.returncode == 1
    assert "another proxy listens on" in done.stderr + done.stdout
    first.signal(signal.SIGKILL)
    first.ended()
    second = programs.rproxy(admin(short_path) + app(backend))
    assert run([*RPROXY, "bans", "--socket", short_path / "s"]).stdout == "nobody is banned\n"
    second.signal(signal.SIGTERM)
    assert second.ended() == 0
    assert not (short_path / "s").exists()
    done = run([*RPROXY, "bans", "--socket", short_path / "s"])
    assert (done.returncode, "does it run" in done.stderr) == (1, True)


def test_mistakes_of_the_command_are_told_without_a_traceback(
    programs: Programs, serving: Serving, short_path: Path
) -> None:
    programs.rproxy(admin(short_path) + app(serving(saying(b"hello"))))
    for words, wrong in (
        (["ban", "nobody"], "rproxy ban: 'nobody' is no network"),
        (["ban", "10.0.0.1/8"], "write 10.0.0.0/8"),
        (["ban", "192.0.2.7", "--for", "soon"], "--for soon: expected a duration"),
        (["unban", "nobody"], "rproxy unban: 'nobody' is no network"),
    ):
        done = run([*RPROXY, *words, "--socket", short_path / "s"])
        assert done.returncode == 1
        assert wrong in done.stderr
        assert "Traceback" not in done.stderr
    done = run([*RPROXY, "ban", "192.0.2.7", "--socket", short_path / "s"])
    assert "warning: there is no ban_list in the configuration, so a restart forgets this" in done.stderr
