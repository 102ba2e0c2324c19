"""A configuration that changes under load: no connection notices, and a broken one changes nothing."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.conftest import Serving
from tests.e2e.programs import RPROXY, Programs, accepts, free_port, until, write_config
from tests.e2e.streams import UNRECOGNIZED_NAME, Backend, ask, call, echo, exactly, saying


def app(*named: tuple[str, Backend]) -> str:
    return "".join(
        f'[apps.{name[0]}]\nserver_name = "{name}"\npassthrough = {{ upstream = [{backend.location}] }}\n'
        for name, backend in named
    )


def test_no_connection_fails_while_the_configuration_changes_again_and_again(
    programs: Programs, serving: Serving
) -> None:
    first, second = serving(saying(b"first")), serving(saying(b"second"))
    proxy = programs.rproxy(app(("a.test", first)))
    finished = threading.Event()

    def keep_changing() -> int:
        times = 0
        while not finished.wait(0.03):
            times += 1
            proxy.write(f"max_clients = {500 + times}\n" + app(("a.test", (first, second)[times % 2])))
            proxy.signal(signal.SIGHUP)
        return times

    with ThreadPoolExecutor(9) as pool:
        changing = pool.submit(keep_changing)
        answers = Counter(pool.map(lambda _: ask(proxy.port, "a.test"), range(2000)))
        finished.set()
        assert changing.result() > 10
    assert answers[b"first"] + answers[b"second"] == 2000
    assert min(answers.values()) > 0
    assert proxy.log.count("reloaded ") > 5


@pytest.mark.parametrize("way", ["in place", "rename", "symlink", "kubernetes"])
def test_a_change_of_the_file_is_noticed(
    programs: Programs, serving: Serving, tmp_path: Path, way: str
) -> None:
    first, second = serving(saying(b"first")), serving(saying(b"second"))
    port, config = free_port(), tmp_path / "etc" / "rproxy.toml"
    config.parent.mkdir()
    fresh = _prepare(config)
    write_config(fresh, port, app(("a.test", first)))
    _put(fresh, config, way)
    proxy = programs.start([*RPROXY, "run", "--config", config], "rproxy")
    proxy.says("rproxy listens on")
    assert ask(port, "a.test") == b"first"
    fresh = _prepare(config)
    write_config(fresh, port, app(("a.test", second)))
    _put(fresh, config, way)
    until(lambda: ask(port, "a.test") == b"second", "the new configuration", seconds=5)
    assert proxy.log.count("reloaded ") == 1


def _prepare(config: Path) -> Path:
    """Where the next content is written, away from the directory that is watched."""
    version = sum(1 for _ in config.parent.parent.glob("version*"))
    folder = config.parent.parent / f"version{version}"
    folder.mkdir()
    return folder / "rproxy.toml"


def _put(fresh: Path, config: Path, way: str) -> None:
    match way:
        case "in place":
            config.write_text(fresh.read_text())
        case "rename":
            fresh.rename(config)
        case "symlink":
            _point(config, fresh)
        case _:  # rproxy.toml -> ..data/rproxy.toml, ..data -> the version, which is swapped
            _point(config.parent / "..data", fresh.parent)
            if not config.is_symlink():
                config.symlink_to("..data/rproxy.toml")


def _point(link: Path, target: Path) -> None:
    fresh = link.with_name("fresh-link")
    fresh.symlink_to(target)
    fresh.rename(link)


def test_a_broken_file_changes_nothing_and_every_mistake_is_logged(
    programs: Programs, serving: Serving
) -> None:
    backend = serving(saying(b"served"))
    proxy = programs.rproxy(app(("a.test", backend)))
    proxy.write('max_client = 3\nidle_timeout = "soon"\n[apps.x]\nserver_name = "-.test"\n')
    proxy.signal(signal.SIGHUP)
    proxy.says("reload refused")
    for part in ("max_client", "idle_timeout", "server_name", ":3:", ":4:", ":6:"):
        assert part in proxy.log
    assert ask(proxy.port, "a.test") == b"served"
    proxy.config.unlink()
    proxy.signal(signal.SIGHUP)
    proxy.says("reload refused", 2)
    assert ask(proxy.port, "a.test") == b"served"
    proxy.reload(app(("a.test", backend)))


def test_a_new_listener_that_cannot_be_opened_changes_nothing(programs: Programs, serving: Serving) -> None:
    backend, other = serving(saying(b"served")), serving(saying(b"other"))
    proxy = programs.rproxy(app(("a.test", backend)))
    proxy.write(f'listen_tls = ["tcp:{other.port}:interface=127.0.0.1"]\n' + app(("a.test", other)))
    proxy.signal(signal.SIGHUP)
    proxy.says("reload refused")
    assert "Address already in use" in proxy.log
    assert ask(proxy.port, "a.test") == b"served"


def test_listeners_come_and_go_with_the_configuration(programs: Programs, serving: Serving) -> None:
    backend = serving(echo)
    one, two = free_port(), free_port()
    proxy = programs.rproxy(f'listen_tls = ["tcp:{one}:interface=127.0.0.1"]\n' + app(("a.test", backend)))
    with call(one, "a.test", b"x") as living, call(proxy.port, "a.test", b"x") as staying:
        assert exactly(living, 1) == exactly(staying, 1) == b"x"
        proxy.reload(f'listen_tls = ["tcp:{two}:interface=127.0.0.1"]\n' + app(("a.test", backend)))
        until(lambda: not accepts(("127.0.0.1", one)), "the old listener is gone")
        for port in (two, proxy.port):
            with call(port, "a.test", b"y") as client:
                assert exactly(client, 1) == b"y"
        for stream in (living, staying):  # and connections outlive their listener
            stream.sendall(b"z")
            assert exactly(stream, 1) == b"z"


def test_a_removed_name_keeps_its_connections_and_gets_no_new_ones(
    programs: Programs, serving: Serving
) -> None:
    a, b = serving(echo), serving(saying(b"b"))
    proxy = programs.rproxy(app(("a.test", a), ("b.test", b)))
    with call(proxy.port, "a.test", b"x") as living:
        assert exactly(living, 1) == b"x"
        proxy.reload(app(("b.test", b)))
        assert ask(proxy.port, "a.test") == UNRECOGNIZED_NAME
        assert ask(proxy.port, "b.test") == b"b"
        living.sendall(b"y")
        assert exactly(living, 1) == b"y"


def test_without_watching_only_a_signal_reloads(programs: Programs, serving: Serving) -> None:
    first, second = serving(saying(b"first")), serving(saying(b"second"))
    proxy = programs.rproxy(app(("a.test", first)), more=["--no-watch"])
    proxy.write(app(("a.test", second)))
    time.sleep(2.5)  # longer than the watch would take without inotify
    assert ask(proxy.port, "a.test") == b"first"
    proxy.signal(signal.SIGHUP)
    proxy.says("reloaded ")
    assert ask(proxy.port, "a.test") == b"second"
