"""All the ways to start rproxy; and the connection log, which each of them writes."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Serving
from tests.e2e.programs import (
    NOBODY,
    ROOT,
    RPROXY,
    TWIST,
    TWISTD,
    Program,
    Programs,
    accepts,
    environment,
    free_port,
    run,
    until,
    write_config,
)
from tests.e2e.streams import Backend, ask, connect, saying

LINE = re.compile(
    r"client=127\.0\.0\.1:\d+ name=a\.test app=a peer=127\.0\.0\.1:\d+"
    r" received=\d+ sent=6 seconds=\d+\.\d{3} reason=closed$",
    re.MULTILINE,
)


def app(backend: Backend) -> str:
    return f'[apps.a]\nserver_name = "a.test"\npassthrough = {{ upstream = [{backend.location}] }}\n'


@pytest.fixture
def config(tmp_path: Path, serving: Serving) -> Path:
    return tmp_path / "rproxy.toml"


def written(config: Path, serving: Serving) -> int:
    """Write a config with one backend that says "served"; the port it is served on."""
    port = free_port()
    write_config(config, port, app(serving(saying(b"served"))))
    return port


def serves(program: Program, port: int) -> None:
    """Check that a running rproxy answers, logs it once, and stops when told to."""
    program.says("rproxy listens on")
    assert ask(port, "a.test") == b"served"
    until(lambda: LINE.search(program.log), "the connection's line in the log")
    assert len(LINE.findall(program.log)) == 1
    program.signal(signal.SIGTERM)
    assert program.ended() in (0, -signal.SIGTERM)  # twistd and twist end as the signal would have ended them
    assert not accepts(("127.0.0.1", port))


@pytest.mark.parametrize(
    "words",
    [[*TWISTD, "-n", "--pidfile="], [*TWIST, "--log-format=text"], RPROXY],
    ids=["twistd", "twist", "rproxy"],
)
def test_in_the_foreground(programs: Programs, serving: Serving, config: Path, words: list[str]) -> None:
    port = written(config, serving)
    verb = ["run"] if words is RPROXY else ["rproxy"]
    serves(programs.start([*words, *verb, "--config", config], "program", cwd=config.parent), port)


def test_a_tac_file(programs: Programs, serving: Serving, config: Path) -> None:
    port = written(config, serving)
    words = [*TWISTD, "-n", "--pidfile=", "-y", ROOT / "docs" / "examples" / "rproxy.tac"]
    env = environment(RPROXY_CONFIG=str(config))
    serves(programs.start(words, "tac", env=env, cwd=config.parent), port)


def test_as_a_daemon_with_a_pid_file_and_a_log_file(serving: Serving, config: Path) -> None:
    port, folder = written(config, serving), config.parent
    words = [*TWISTD, "--pidfile=rproxy.pid", "--logfile=rproxy.log", "rproxy", "--config", "rproxy.toml"]
    assert run(words, cwd=folder).returncode == 0
    pid = int((folder / "rproxy.pid").read_text())
    try:
        until(lambda: accepts(("127.0.0.1", port)), "the daemon listens")
        assert ask(port, "a.test") == b"served"
        log = folder / "rproxy.log"
        until(lambda: LINE.search(log.read_text()), "the connection's line in the log")
        assert os.readlink(f"/proc/{pid}/cwd") == str(folder)
        os.kill(pid, signal.SIGHUP)  # a relative path still means the same file
        until(lambda: "reloaded " in log.read_text(), "the reload in the log")
        os.kill(pid, signal.SIGTERM)
        until(lambda: not (folder / "rproxy.pid").exists(), "the pid file is gone")
        until(lambda: not Path(f"/proc/{pid}").exists() or _is_zombie(pid), "the daemon has ended")
        assert "Traceback" not in log.read_text()
    finally:
        _kill(pid)


def _is_zombie(pid: int) -> bool:
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


def _kill(pid: int) -> None:
    try:
        if b"rproxy.toml" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        pass  # as it should be


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_privileges_are_dropped_once_the_port_is_bound(
    programs: Programs, serving: Serving, tmp_path: Path, config: Path
) -> None:
    port = next(port for port in range(600, 1024) if not accepts(("127.0.0.1", port)))
    write_config(config, port, app(serving(saying(b"served"))))
    words = [*TWISTD, "-n", "--pidfile=", f"--uid={NOBODY}", f"--gid={NOBODY}", "rproxy", "--config", config]
    program = programs.start(words, "dropped")
    program.says("rproxy listens on")
    status = Path(f"/proc/{program.pid}/status").read_text()
    assert re.search(rf"^Uid:\t{NOBODY}\t{NOBODY}", status, re.MULTILINE)
    assert re.search(rf"^Gid:\t{NOBODY}\t{NOBODY}", status, re.MULTILINE)
    assert ask(port, "a.test") == b"served"


def test_several_proxies_share_a_process(programs: Programs, serving: Serving, tmp_path: Path) -> None:
    ports = []
    for name in ("one", "two"):
        ports.append(free_port())
        write_config(tmp_path / f"{name}.toml", ports[-1], app(serving(saying(name.encode()))))
    (tmp_path / "both.tac").write_text(
        "from twisted.application.service import Application\nimport rproxy\n"
        "application = Application('both')\n"
        "for name in ('one.toml', 'two.toml'):\n"
        "    rproxy.makeService(name).setServiceParent(application)\n"
    )
    program = programs.start([*TWISTD, "-n", "--pidfile=", "-y", "both.tac"], "both", cwd=tmp_path)
    program.says("rproxy listens on", 2)
    assert [ask(port, "a.test") for port in ports] == [b"one", b"two"]


def test_what_a_client_says_is_escaped_in_the_log(programs: Programs, serving: Serving) -> None:
    proxy = programs.rproxy(app(serving(saying(b"served"))))
    evil = b'a.test reason=closed\nroot logged in \x1b[31m"x"\\'
    with connect(proxy.port) as client:
        client.sendall(_hello_with(evil))
        assert client.recv(7)[-1] == 112
    until(lambda: proxy.ends(), "the end in the log")
    assert "\x1b" not in proxy.log
    assert "\nroot logged in" not in proxy.log
    line = next(line for line in proxy.log.splitlines() if " client=" in line)
    assert len(line.split(" ")) == 9
    assert proxy.ends()[0]["reason"] == "unknown_name"


def _hello_with(name: bytes) -> bytes:
    """A ClientHello for a name that no library would send."""

    def sized(content: bytes, width: int = 2) -> bytes:
        return len(content).to_bytes(width, "big") + content

    names = sized(b"\x00" + sized(name))
    extensions = sized(b"\x00\x00" + sized(names))
    body = b"\x03\x03" + bytes(32) + sized(b"", 1) + sized(b"\x13\x01") + sized(b"\x00", 1) + extensions
    return b"\x16\x03\x01" + sized(b"\x01" + sized(body, 3))


def test_every_connection_has_one_line(programs: Programs, serving: Serving) -> None:
    proxy = programs.rproxy(app(serving(saying(b"served"))))
    for _ in range(50):
        ask(proxy.port, "a.test")
    connect(proxy.port).close()
    until(lambda: len(proxy.ends()) == 51, "the lines in the log")
    time.sleep(0.3)
    ends = proxy.ends()
    assert [end["reason"] for end in ends].count("closed") == 50
    assert ends[-1]["reason"] == "client_left"
    assert set(ends[0]) == {"client", "name", "app", "peer", "received", "sent", "seconds", "reason"}


def test_the_version_is_printed() -> None:
    said = [run([*words, "--version"]).stdout for words in (RPROXY, [*TWISTD, "-n", "rproxy"])]
    assert said[0] == said[1]
    assert said[0].startswith("rproxy 0.")


def test_the_file_that_documents_every_key_is_served(programs: Programs, tmp_path: Path) -> None:
    port = free_port()
    text = (ROOT / "config-example.toml").read_text()
    (tmp_path / "example.toml").write_text(text.replace("= 8443", f"= {port}", 1))
    words = [*RPROXY, "run", "--config", tmp_path / "example.toml"]
    program = programs.start(words, "example")
    program.says("rproxy listens on")
    done = run([sys.executable, "-c", DEMO, port])
    assert "This is the demo backend" in done.stdout, done.stderr
    assert "PROXY v2 header" in done.stdout


DEMO = """
import socket, ssl, sys
context = ssl._create_unverified_context()
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5) as plain:
    with context.wrap_socket(plain, server_hostname="demo.localhost") as stream:
        stream.sendall(b"GET / HTTP/1.1\\r\\nHost: demo.localhost\\r\\n\\r\\n")
        while chunk := stream.recv(65536):
            print(chunk.decode(), end="")
"""
