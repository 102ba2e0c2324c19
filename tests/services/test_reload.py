"""The config file's changes are noticed however it is replaced, and told once each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from rproxy.services.reload import LOOK_EVERY, PATIENCE, SETTLE, Fingerprint, Watch, fingerprint
from tests.fakes import LogLines, Loop, open_files


class Watched:
    """A config file, a loop, and the watch over them."""

    def __init__(self, path: Path, seen: Fingerprint | None = None) -> None:
        self.loop, self.path = Loop(), path
        self.told: list[str] = []
        self.watch = Watch(self.loop, path, self.changed, seen)

    def changed(self) -> None:
        self.told.append(self.path.read_text())

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds / 0.1 + 0.5)):
            self.loop.spin()
            self.loop.advance(0.1)


def write(path: Path, text: str) -> None:
    """With a new time stamp, however coarse the clock of the filesystem is."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(0, before + 1_000_000_000))


@pytest.fixture(params=["inotify", "looking"])
def it(request: Any, tmp_path: Path) -> Iterator[Watched]:
    (tmp_path / "real").mkdir()
    path = tmp_path / "real" / "rproxy.toml"
    write(path, "first")
    watched = Watched(path)
    patch = mock.patch("twisted.internet.inotify.INotify", side_effect=RuntimeError("none left"))
    if request.param == "looking":
        with patch:
            watched.watch.startService()
    else:
        watched.watch.startService()
    yield watched
    if watched.watch.running:
        watched.watch.stopService()
    assert watched.loop.getDelayedCalls() == []
    assert watched.loop.readers == set()


def test_a_file_that_stays_is_never_told(it: Watched) -> None:
    it.pass_time(5 * LOOK_EVERY)
    assert it.told == []


def test_a_written_file_is_told_once(it: Watched) -> None:
    write(it.path, "second")
    it.pass_time(3 * LOOK_EVERY)
    assert it.told == ["second"]


def test_a_file_renamed_into_place_is_told_once(it: Watched) -> None:
    write(it.path.with_suffix(".new"), "second")
    it.path.with_suffix(".new").rename(it.path)
    it.pass_time(3 * LOOK_EVERY)
    assert it.told == ["second"]


def test_a_file_that_is_gone_is_waited_for(it: Watched) -> None:
    it.path.unlink()
    it.pass_time(3 * LOOK_EVERY)
    assert it.told == []
    write(it.path, "there again")
    it.pass_time(2 * LOOK_EVERY)
    assert it.told == ["there again"]


def test_what_was_read_for_another_reason_is_not_told(it: Watched) -> None:
    write(it.path, "second")
    it.watch.noted()
    it.pass_time(3 * LOOK_EVERY)
    assert it.told == []


def test_each_change_is_told(it: Watched) -> None:
    for text in ("two", "three!", "four"):
        write(it.path, text)
        it.pass_time(2 * LOOK_EVERY)
    assert it.told == ["two", "three!", "four"]


def test_a_stopped_watch_tells_nothing(it: Watched) -> None:
    it.watch.stopService()
    write(it.path, "second")
    it.pass_time(3 * LOOK_EVERY)
    assert it.told == []


def test_a_failing_reload_does_not_end_the_watch(it: Watched) -> None:
    with mock.patch.object(it.watch, "_changed", side_effect=ZeroDivisionError), LogLines() as log:
        write(it.path, "second")
        it.pass_time(2 * LOOK_EVERY)
    assert log.texts("rproxy.services.reload") == ["the reload failed"]
    write(it.path, "third")
    it.pass_time(2 * LOOK_EVERY)
    assert it.told == ["third"]


def test_stopping_from_within_a_change_stops(it: Watched) -> None:
    with mock.patch.object(it.watch, "_changed", side_effect=it.watch.stopService):
        write(it.path, "second")
        it.pass_time(2 * LOOK_EVERY)
    assert not it.watch.running


def linked(tmp_path: Path) -> tuple[Path, Path]:
    """A config map as Kubernetes mounts it: the file is a link through a link that is switched."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "rproxy.toml", name)
    (tmp_path / "current").symlink_to("one")
    (tmp_path / "rproxy.toml").symlink_to("current/rproxy.toml")
    return tmp_path / "rproxy.toml", tmp_path / "current"


def test_a_link_that_is_switched_is_a_change(tmp_path: Path) -> None:
    path, link = linked(tmp_path)
    it = Watched(path)
    it.watch.startService()
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(link)
    it.pass_time(2 * LOOK_EVERY)
    assert it.told == ["two"]
    it.watch.stopService()


def test_inotify_hastens_the_look_and_waits_for_the_editor_to_finish(tmp_path: Path) -> None:
    path = tmp_path / "rproxy.toml"
    write(path, "first")
    it = Watched(path)
    it.watch.startService()
    write(path, "half")
    it.loop.spin()
    it.loop.advance(SETTLE / 2)
    write(path, "whole")
    it.loop.spin()
    it.loop.advance(SETTLE * 0.75)
    assert it.told == []
    it.loop.advance(SETTLE / 2)
    assert it.told == ["whole"]
    it.watch.stopService()


def test_a_neighbour_that_is_written_all_the_time_does_not_put_the_look_off(tmp_path: Path) -> None:
    path = tmp_path / "rproxy.toml"
    write(path, "first")
    it, step = Watched(path), SETTLE / 4
    it.watch.startService()
    write(path, "second")
    for _ in range(int((PATIENCE + SETTLE) / step)):
        (tmp_path / "neighbour").write_text("noise")
        it.loop.spin()
        it.loop.advance(step)
    assert it.told == ["second"]
    write(path, "third")
    for _ in range(int((PATIENCE + SETTLE) / step)):
        (tmp_path / "neighbour").write_text("noise")
        it.loop.spin()
        it.loop.advance(step)
    assert it.told == ["second", "third"]
    it.watch.stopService()


def test_signs_never_make_a_look_later_than_it_would_be_without(tmp_path: Path) -> None:
    path = tmp_path / "rproxy.toml"
    write(path, "first")
    it = Watched(path)
    with mock.patch("twisted.internet.inotify.INotify", side_effect=RuntimeError("none left")):
        it.watch.startService()
    write(path, "second")
    it.loop.advance(LOOK_EVERY - SETTLE / 2)
    it.watch._sign(None, None, 0)
    it.loop.advance(SETTLE / 2)
    assert it.told == ["second"]
    it.watch.stopService()


def test_what_was_saved_between_the_reading_and_the_start_is_told(tmp_path: Path) -> None:
    path = tmp_path / "rproxy.toml"
    write(path, "read")
    seen = fingerprint(path)
    write(path, "saved meanwhile")
    it = Watched(path, seen)
    it.watch.startService()
    it.pass_time(3 * LOOK_EVERY)
    assert it.told == ["saved meanwhile"]
    it.watch.stopService()


def test_other_permissions_alone_are_a_change(tmp_path: Path) -> None:
    """Who could not read the file at the last reload can now."""
    path = tmp_path / "rproxy.toml"
    write(path, "first")
    it = Watched(path)
    it.watch.startService()
    path.chmod(0o400)
    it.pass_time(2 * LOOK_EVERY)
    assert it.told == ["first"]
    it.watch.stopService()


def test_a_watch_gives_its_descriptor_back(tmp_path: Path) -> None:
    path = tmp_path / "rproxy.toml"
    write(path, "first")
    it, before = Watched(path), count_inotify()
    it.watch.startService()
    assert count_inotify() == before + 1
    it.watch.stopService()
    assert count_inotify() == before


def test_a_directory_that_cannot_be_watched_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "rproxy.toml"
    write(path, "first")
    it, watches, files = Watched(path), count_inotify(), open_files()
    with mock.patch("twisted.internet.inotify.INotify.watch", side_effect=RuntimeError("ENOSPC")):
        it.watch.startService()
    assert (count_inotify(), open_files() <= files) == (watches, True)
    write(path, "second")
    it.pass_time(2 * LOOK_EVERY)
    assert it.told == ["second"]
    it.watch.stopService()


def count_inotify() -> int:
    links = []
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            pass
    return sum("inotify" in link for link in links)


def test_a_fingerprint_of_nothing_is_empty(tmp_path: Path) -> None:
    assert fingerprint(tmp_path / "no") == ()
    write(tmp_path / "a", "x")
    first = fingerprint(tmp_path / "a")
    assert first == fingerprint(tmp_path / "a") != ()
    write(tmp_path / "a", "y")
    assert fingerprint(tmp_path / "a") != first
