"""Bans hold at once, survive a restart, and nobody's edit of the file is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from twisted.internet.task import Clock

from rproxy.errors import ConfigError
from rproxy.services import banfile, bans
from rproxy.services.banfile import SLICE
from rproxy.services.bans import QUIET, SAVE_EVERY, TRY_AGAIN, Bans
from rproxy.services.reload import LOOK_EVERY
from tests.fakes import LogLines

START = 1_794_997_600.0
"""2026-11-18T10:26:40Z"""


TURN = 0.001


class Turns(Clock):
    """A clock where what is called at once is called in the next turn of the loop, `TURN` later."""

    def callLater(self, when: float, what: Any, *args: Any, **kw: Any) -> Any:
        return super().callLater(max(when, TURN), what, *args, **kw)


class World:
    """A ban list, its file, and a clock."""

    def __init__(self, path: Path) -> None:
        self.path, self.clock, self.enforced, self.written = path, Turns(), 0, 0
        self.clock.advance(START)
        self.bans = Bans(self.clock, self._enforce)
        self.bans.startService()

    def _enforce(self) -> None:
        self.enforced += 1

    def use(self) -> World:
        self.bans.use(self.bans.load(self.path))
        return self

    def looked(self) -> None:
        """The file's watcher has had its look, and what it started has ended."""
        self.clock.advance(LOOK_EVERY)
        self.turns(20)

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.clock.advance(TURN)

    def write(self, text: str) -> None:
        """As an editor does; with a new time stamp, however coarse the clock of the filesystem is."""
        self.path.write_text(text)
        self.written += 1
        os.utime(self.path, ns=(0, self.written * 1_000_000_000))

    @property
    def text(self) -> str:
        return self.path.read_text()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "bans.txt")
    with mock.patch("twisted.internet.inotify.INotify", side_effect=RuntimeError("only looking")):
        yield made
    made.bans.stopService()
    assert made.clock.getDelayedCalls() == []


def test_a_ban_holds_at_once_and_until_it_ends(world: World) -> None:
    assert world.bans.ban("192.0.2.7", 60.0) == "192.0.2.7 2026-11-18T10:27:40Z"
    assert world.bans.banned("192.0.2.7")
    assert world.enforced == 1
    world.clock.advance(59.9)
    assert world.bans.banned("192.0.2.7")
    world.clock.advance(0.1)
    assert not world.bans.banned("192.0.2.7")


def test_without_a_time_it_is_for_ever(world: World) -> None:
    assert world.bans.ban("10.0.0.0/8") == "10.0.0.0/8"
    world.clock.advance(400 * 86400)
    assert world.bans.banned("10.1.2.3")


def test_what_is_over_is_forgotten(world: World) -> None:
    for number in range(100):
        world.bans.ban(f"192.0.2.{number}", 10.0 + number)
    world.bans.ban("10.0.0.0/8", 30.0)
    world.clock.advance(60)
    assert len(world.bans) == 49
    assert not world.bans.banned("10.1.1.1")
    world.clock.advance(60)
    assert len(world.bans) == 0
    assert world.bans.listed(10) == []


def test_a_ban_is_lifted(world: World) -> None:
    world.bans.ban("10.0.0.0/8")
    assert world.bans.unban("10.0.0.0/8")
    assert not world.bans.banned("10.1.2.3")
    assert not world.bans.unban("10.0.0.0/8")


def test_the_latest_bans_are_listed_first(world: World) -> None:
    for host in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
        world.bans.ban(host)
    assert world.bans.listed(2) == ["192.0.2.3", "192.0.2.2"]


def test_a_full_list_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(banfile, "MOST_BANS", 2)
    world.bans.ban("192.0.2.1")
    world.bans.ban("192.0.2.2")
    world.bans.ban("192.0.2.2", 5.0)
    with pytest.raises(ValueError, match="bans already"):
        world.bans.ban("192.0.2.3")
    assert len(world.bans) == 2


def jailed(number: int) -> str:
    return f"2001:db8:0:{number:x}::/64"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three bans by hand, four of jails."""
    monkeypatch.setattr(banfile, "MOST_BANS", 3)
    monkeypatch.setattr(banfile, "MOST_JAILED", 4)


@pytest.mark.usefixtures("few")
def test_strangers_who_fill_the_jails_take_no_room_of_bans_by_hand(world: World) -> None:
    world.bans.ban("192.0.2.1")
    for number in range(50):
        world.bans.ban_client(jailed(number), 3600.0, "status 401")
    assert (len(world.bans), world.bans.jailed) == (5, 4)
    for host in ("192.0.2.2", "192.0.2.3"):
        world.bans.ban(host)
    with pytest.raises(ValueError, match="bans already"):
        world.bans.ban("192.0.2.4")
    assert all(world.bans.banned(f"192.0.2.{n}") for n in (1, 2, 3))
    world.bans.ban_client(jailed(99), 3600.0, "status 401")
    assert world.bans.banned(jailed(99).removesuffix("/64") + "1")
    assert all(world.bans.banned(f"192.0.2.{n}") for n in (1, 2, 3))


@pytest.mark.usefixtures("few")
def test_where_jails_have_their_share_the_oldest_of_their_bans_ends(world: World) -> None:
    for number in (1, 2, 3, 4, 1, 5, 6):  # 1 is banned anew, and so younger than 4
        world.bans.ban_client(jailed(number), 3600.0, "status 401")
    banned = [number for number in range(10) if world.bans.banned(f"2001:db8:0:{number:x}::9")]
    assert banned == [1, 4, 5, 6]
    assert [line.split()[0] for line in world.bans.listed(10)] == [jailed(n) for n in (6, 5, 4, 1)]


@pytest.mark.usefixtures("few")
def test_full_jails_are_told_once_in_a_while(world: World) -> None:
    with LogLines() as lines:
        for number in range(20):
            world.bans.ban_client(jailed(number), 3600.0, "status 401")
        assert len(lines.events) == 1
        world.clock.advance(QUIET)
        for number in range(20, 40):
            world.bans.ban_client(jailed(number), 3600.0, "status 401")
        assert len(lines.events) == 2


@pytest.mark.usefixtures("few")
def test_a_ban_by_hand_is_no_jail_s_any_more_and_needs_room(world: World) -> None:
    world.bans.ban_client(jailed(1), 3600.0, "status 401")
    world.bans.ban(jailed(1))
    assert world.bans.jailed == 0
    for number in range(2, 20):
        world.bans.ban_client(jailed(number), 3600.0, "status 401")
    assert world.bans.banned("2001:db8:0:1::9")
    world.bans.ban("192.0.2.1")
    world.bans.ban("192.0.2.2")
    with pytest.raises(ValueError, match="bans already"):
        world.bans.ban(jailed(19))
    assert world.bans.banned("2001:db8:0:13::9"), "it stays as it was"


@pytest.mark.usefixtures("few")
def test_the_shares_are_the_same_after_a_restart(world: World, tmp_path: Path) -> None:
    world.use()
    world.bans.ban("192.0.2.1")
    for number in range(9):
        world.bans.ban_client(jailed(number), 3600.0, "status 401")
    world.bans.save()
    assert world.text.count("# jail: status 401") == 4
    again = Bans(world.clock)
    again.use(again.load(world.path))
    assert (len(again), again.jailed) == (5, 4)
    again.ban_client(jailed(9), 3600.0, "status 401")
    assert (len(again), again.jailed) == (5, 4)
    assert again.banned("192.0.2.1")
    again.stopService()


@pytest.mark.usefixtures("few")
def test_nothing_grows_with_what_jails_have_forgotten(world: World) -> None:
    """Neither what is banned nor what waits to be written, which it does for ever without a file."""
    for number in range(100):
        world.bans.ban_client(jailed(number), 3600.0, "status 401")
    assert len(world.bans) == len(world.bans._unsaved) == len(world.bans._file.lines) == 4


def test_a_jail_of_a_long_name_makes_no_long_lines(world: World) -> None:
    world.bans.ban_client("192.0.2.1", 5.0, "x" * 1000)
    (line,) = world.bans.listed(1)
    assert len(line) < 200


# -- The file -----------------------------------------------------------------------------------------------


def test_the_file_is_read_at_the_start(world: World) -> None:
    world.write("192.0.2.7\n10.0.0.0/8 # all of them\n192.0.2.9 2026-11-18T10:00:00Z\n")
    world.use()
    assert [world.bans.banned(host) for host in ("192.0.2.7", "10.9.9.9", "192.0.2.9", "192.0.2.8")] == [
        True, True, False, False,
    ]  # fmt: skip
    assert world.enforced == 1


def test_a_file_with_mistakes_is_refused_and_changes_nothing(world: World) -> None:
    world.write("192.0.2.7\n")
    world.use()
    other = world.path.with_name("other.txt")
    other.write_text("nobody\n")
    with pytest.raises(ConfigError, match=r"other\.txt:1:1"):
        world.bans.load(other)
    assert world.bans.banned("192.0.2.7")


def test_a_ban_is_written_when_it_is_saved_and_else_soon(world: World) -> None:
    world.use()
    world.bans.ban("192.0.2.7", 60.0, "# by hand")
    assert world.bans.save() == ""
    assert world.text == "192.0.2.7 2026-11-18T10:27:40Z # by hand\n"
    world.bans.ban("192.0.2.8")
    world.bans.ban("192.0.2.9")
    assert "192.0.2.8" not in world.text
    world.clock.advance(SAVE_EVERY)
    assert world.text.endswith("# by hand\n192.0.2.8\n192.0.2.9\n")
    world.bans.unban("192.0.2.8")
    world.bans.save()
    assert world.text.endswith("# by hand\n192.0.2.9\n")


@pytest.mark.parametrize(("takes", "rest"), [(0.001, SAVE_EVERY), (0.05, 5.0), (3.0, TRY_AGAIN)])
def test_the_longer_a_writing_takes_the_longer_the_next_one_waits(
    world: World, monkeypatch: pytest.MonkeyPatch, takes: float, rest: float
) -> None:
    """Strangers decide how often a jail bans; the list may be long for other reasons."""
    world.use()
    written = list[float]()

    def slow(path: Path, text: str) -> None:
        world.clock.rightNow += takes  # type: ignore[attr-defined]
        written.append(world.clock.seconds())

    monkeypatch.setattr(bans, "save_text", slow)
    world.bans.ban_client("192.0.2.7", 3600.0, "x")
    world.clock.advance(SAVE_EVERY)
    for number in range(40):
        world.bans.ban_client(f"192.0.2.{number}", 3600.0, "x")
        world.clock.advance(0.5)
    assert written[1] - written[0] == pytest.approx(rest + takes, abs=0.51)
    world.bans.ban("198.51.100.7")
    before = len(written)
    world.bans.save()
    assert len(written) == before + 1, "who bans by hand does not wait"


def test_a_stop_writes_what_is_waiting(world: World) -> None:
    world.use()
    world.bans.ban("192.0.2.7")
    world.bans.stopService()
    assert world.text == "192.0.2.7\n"


def test_seconds_in_the_file_are_written_as_a_time(world: World) -> None:
    world.write("192.0.2.7 60\n")
    world.use()
    world.turns(1)
    assert world.text == "192.0.2.7 2026-11-18T10:27:40Z\n"


def test_an_edit_of_the_file_is_noticed(world: World) -> None:
    world.write("192.0.2.7\n")
    world.use()
    world.write("# instead\n192.0.2.8\n")
    world.looked()
    assert [world.bans.banned(host) for host in ("192.0.2.7", "192.0.2.8")] == [False, True]
    assert world.enforced == 2


def test_a_ban_that_is_written_may_be_taken_out_of_the_file(world: World) -> None:
    world.use()
    world.bans.ban("192.0.2.7")
    world.bans.save()
    world.write("# nobody\n")
    world.looked()
    assert not world.bans.banned("192.0.2.7")


def test_our_own_writing_is_not_read_again(world: World) -> None:
    world.use()
    world.bans.ban("192.0.2.7")
    world.bans.save()
    with LogLines() as lines:
        world.looked()
    assert lines.events == []


def test_a_ban_does_not_undo_an_edit_that_nobody_has_seen_yet(world: World) -> None:
    world.write("192.0.2.7\n")
    world.use()
    world.write("# mine\n192.0.2.8\n")
    world.bans.ban("192.0.2.9")
    with LogLines() as lines:
        assert world.bans.save() == ""
        world.looked()
    assert [event["n"] for event in lines.events] == [2], "it is read once"
    assert world.text == "# mine\n192.0.2.8\n192.0.2.9\n"
    assert [world.bans.banned(f"192.0.2.{n}") for n in (7, 8, 9)] == [False, True, True]


def test_a_ban_that_was_lifted_stays_so_although_somebody_edits_the_file(world: World) -> None:
    world.write("192.0.2.7\n192.0.2.8\n")
    world.use()
    world.bans.save()
    world.write("192.0.2.7\n192.0.2.8\n192.0.2.9\n")
    world.bans.unban("192.0.2.7")
    world.looked()
    assert [world.bans.banned(f"192.0.2.{n}") for n in (7, 8, 9)] == [False, True, True]
    world.clock.advance(SAVE_EVERY)
    assert world.text == "192.0.2.8\n192.0.2.9\n"


def test_an_edit_with_mistakes_changes_nothing_and_is_not_written_over(world: World) -> None:
    world.write("192.0.2.7\n")
    world.use()
    world.write("192.0.2.8\nnobody\n")
    with LogLines() as lines:
        world.looked()
    assert "bans.txt:2:1" in str(lines.events[0]["why"])
    world.bans.ban("192.0.2.9")
    assert "mistakes" in world.bans.save()
    world.clock.advance(60)
    assert world.text == "192.0.2.8\nnobody\n"
    assert [world.bans.banned(f"192.0.2.{n}") for n in (7, 8, 9)] == [True, False, True]
    world.write("192.0.2.8\n")
    world.looked()
    world.clock.advance(SAVE_EVERY)
    assert world.text == "192.0.2.8\n192.0.2.9\n"
    assert [world.bans.banned(f"192.0.2.{n}") for n in (7, 8, 9)] == [False, True, True]


def test_a_long_file_is_read_a_slice_at_a_time_and_bans_made_meanwhile_hold(world: World) -> None:
    world.use()
    world.write("".join(f"10.0.{n >> 8}.{n & 255}\n" for n in range(3 * SLICE)))
    world.clock.advance(LOOK_EVERY)
    assert not world.bans.banned("10.0.0.5")
    world.bans.ban("192.0.2.7")
    assert world.bans.save() == ""
    world.turns(5)
    assert world.bans.banned("10.0.0.5")
    assert world.bans.banned("192.0.2.7")
    world.clock.advance(SAVE_EVERY)
    assert world.text.endswith("\n192.0.2.7\n")
    assert len(world.text.splitlines()) == 3 * SLICE + 1


@pytest.mark.parametrize("with_a_ban", [False, True])
def test_an_edit_while_one_is_read_is_read_after_it(world: World, with_a_ban: bool) -> None:
    world.use()
    world.write("".join(f"10.0.{n >> 8}.{n & 255}\n" for n in range(3 * SLICE)))
    world.clock.advance(LOOK_EVERY)
    world.write("192.0.2.8\n")
    if with_a_ban:
        world.bans.ban("192.0.2.9")
    world.bans._reread()
    world.turns(20)
    hosts = ["10.0.0.5", "192.0.2.8", "192.0.2.9"]
    assert [world.bans.banned(host) for host in hosts] == [False, True, with_a_ban]
    world.clock.advance(SAVE_EVERY)
    assert world.text == "192.0.2.8\n" + "192.0.2.9\n" * with_a_ban


def test_a_file_that_was_removed_is_written_anew(world: World) -> None:
    world.write("192.0.2.7\n")
    world.use()
    world.path.unlink()
    world.looked()
    world.bans.ban("192.0.2.8")
    world.bans.save()
    assert world.text == "192.0.2.7\n192.0.2.8\n"


def test_a_file_that_cannot_be_written_is_tried_again(world: World) -> None:
    world.path = world.path.parent / "later" / "bans.txt"
    world.use()
    world.bans.ban("192.0.2.7")
    assert "No such file" in world.bans.save()
    assert world.bans.banned("192.0.2.7")
    world.path.parent.mkdir()
    world.clock.advance(TRY_AGAIN)
    assert world.text == "192.0.2.7\n"
    assert world.bans.save() == ""


def test_without_a_file_the_answer_says_that_a_restart_forgets(world: World) -> None:
    world.bans.ban("192.0.2.7")
    assert "no ban_list" in world.bans.save()


def test_bans_made_before_there_was_a_file_are_written_into_it(world: World) -> None:
    world.bans.ban("192.0.2.7")
    world.bans.ban("192.0.2.6")
    world.bans.unban("192.0.2.6")
    world.write("192.0.2.8\n")
    world.use()
    world.clock.advance(SAVE_EVERY)
    assert world.text == "192.0.2.8\n192.0.2.7\n"


def test_another_file_takes_the_place_of_the_first(world: World) -> None:
    world.write("192.0.2.7\n")
    world.use()
    first, world.path = world.path, world.path.with_name("other.txt")
    world.write("192.0.2.8\n")
    world.use()
    first.write_text("192.0.2.9\n# and more\n")
    world.looked()
    assert [world.bans.banned(f"192.0.2.{n}") for n in (7, 8, 9)] == [False, True, False]
    world.bans.use(world.bans.load(None))
    assert not world.bans.banned("192.0.2.8")
    assert len(world.bans) == 0


def test_a_file_that_is_left_while_it_is_read_is_not_used(world: World) -> None:
    world.use()
    world.write("".join(f"10.0.{n >> 8}.{n & 255}\n" for n in range(3 * SLICE)))
    world.clock.advance(LOOK_EVERY)
    world.bans.use(world.bans.load(None))
    world.looked()
    assert len(world.bans) == 0
