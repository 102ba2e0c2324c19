"""The ban list is read strictly and written whole; what people wrote in it stays."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.errors import ConfigError
from rproxy.policy.bantable import EVER, read_network
from rproxy.services import banfile
from rproxy.services.banfile import (
    LONGEST,
    MOST_BYTES,
    MOST_PROBLEMS,
    SLICE,
    BanFile,
    Line,
    load_text,
    read_line,
    read_lines,
    save_text,
    stamp,
)

NOW = 1_794_997_600.0
"""2026-11-18T10:26:40Z"""


def read(text: str) -> BanFile:
    file = BanFile()
    for _ in read_lines(text, "bans.txt", NOW, file):
        pass
    return file


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return [str(problem).split("\n")[0] for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("line", "until", "note"),
    [
        ("192.0.2.7", EVER, ""),
        ("  192.0.2.7\t", EVER, ""),
        ("192.0.2.7 # a bot ", EVER, "# a bot"),
        ("192.0.2.7 2026-11-18T10:26:50Z", NOW + 10, ""),
        ("192.0.2.7 2026-11-18t11:26:50.5+01:00 # x", NOW + 10.5, "# x"),
        ("192.0.2.7 60", NOW + 60, ""),
    ],
)
def test_a_line_is_an_address_a_time_and_words(line: str, until: float, note: str) -> None:
    assert read_line(line, NOW) == Line(read_network("192.0.2.7"), until, line.endswith(" 60"), note)


@pytest.mark.parametrize("line", ["", "   ", "# words", "  # 192.0.2.7"])
def test_a_line_may_have_no_ban(line: str) -> None:
    assert read_line(line, NOW) is None


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("nobody", "no network"),
        ("192.0.2.7 soon", "is no time"),
        ("192.0.2.7 0", "no number of seconds"),
        (f"192.0.2.7 {LONGEST + 1}", "no number of seconds"),
        (f"192.0.2.7 {'9' * 5000}", "no number of seconds"),
        ("192.0.2.7 -5", "is no time"),
        ("192.0.2.7 1h", "is no time"),
        ("192.0.2.7 2026-11-18", "is no time"),
        ("192.0.2.7 2026-11-18T10:26:50", "is no time"),
        ("192.0.2.7 2026-02-30T10:26:50Z", "no moment"),
        ("192.0.2.7 9999-12-31T23:59:59-12:00", "1970 to 9999"),
        ("192.0.2.7 9999-12-31T23:59:59.1Z", "1970 to 9999"),
        ("192.0.2.7 0001-01-01T00:00:00+00:01", "1970 to 9999"),
        ("192.0.2.7 ٣", "is no time"),
        ("192.0.2.7 60 because", "behind a #"),
        ("192.0.2.7, 192.0.2.8", "no network"),
    ],
)
def test_what_cannot_be_meant_is_refused(line: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        read_line(line, NOW)


@given(st.text(max_size=60))
def test_any_line_is_a_ban_or_nothing_or_refused(line: str) -> None:
    try:
        found = read_line(line, NOW)
    except ValueError:
        return
    if found is not None:
        again = read_line(banfile.written(found.network.text, found.until, found.note), NOW)
        assert again is not None
        assert (again.network, again.note) == (found.network, found.note)
        assert found.until <= again.until < found.until + 1 or again.until == found.until


@pytest.mark.parametrize("word", ["9999-12-31T23:59:59Z", "1970-01-01T00:00:00Z"])
def test_the_first_and_the_last_moment_can_be_written_down(word: str) -> None:
    found = read_line(f"192.0.2.7 {word}", NOW)
    assert found is not None
    assert banfile.stamp(found.until) == word


def test_all_mistakes_are_told_with_their_lines() -> None:
    assert mistakes("192.0.2.7\nnobody\n# fine\n192.0.2.8 soon\n192.0.2.7 # again\n") == [
        "bans.txt:2:1: 'nobody' is no network: write an address such as 192.0.2.7, "
        "a network such as 10.0.0.0/8 or 2001:db8::/32.",
        "bans.txt:4:1: 'soon' is no time: write 2026-11-21T13:00:00Z, or a number of seconds",
        "bans.txt:5:1: 192.0.2.7 stands in this file already",
    ]


def test_a_file_of_another_kind_has_few_mistakes() -> None:
    assert len(mistakes("x\n" * 10_000)) == MOST_PROBLEMS


def test_more_bans_than_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(banfile, "MOST_BANS", 2)
    assert "more than 2 bans" in mistakes("192.0.2.1\n192.0.2.2\n192.0.2.3\n")[0]


def test_a_long_file_is_read_in_slices() -> None:
    text = "\n".join(f"10.{number >> 8}.{number & 255}.1" for number in range(10 * SLICE))
    assert sum(1 for _ in read_lines(text, "bans.txt", NOW, BanFile())) == 10


def test_100_000_networks_are_read_in_a_second() -> None:
    """Half a second of processor time on an idle machine, where the limit is one."""
    text = "\n".join(f"{n >> 11 & 255}.{n >> 3 & 255}.{(n & 7) << 5}.0/{19 + n % 8}" for n in range(100_000))
    unique = "\n".join(dict.fromkeys(text.split("\n")))
    before = process_time()
    file = read(unique)
    assert process_time() - before < 3
    assert len(file.table) > 90_000


def test_what_people_wrote_stays_as_it_was() -> None:
    text = "# who tried the passwords\n\n192.0.2.7   # bot\n  10.0.0.0/8\t2027-01-01T00:00:00Z\n# end\n"
    file = read(text)
    file.add(read_network("192.0.2.9"), NOW + 10, "# jail")
    assert file.text() == text + "192.0.2.9 2026-11-18T10:26:50Z # jail\n"
    assert file.remove(read_network("192.0.2.7"))
    assert "192.0.2.7" not in file.text()
    assert file.text().startswith("# who tried the passwords\n\n  10.0.0.0/8\t2027")


def test_seconds_become_a_time_as_a_restart_would_begin_them_again() -> None:
    file = read("192.0.2.7 60 # a minute\n192.0.2.8\n")
    assert file.moved
    assert file.text() == "192.0.2.7 2026-11-18T10:27:40Z # a minute\n192.0.2.8\n"
    assert not read(file.text()).moved


def test_what_is_over_leaves_the_table_and_the_file() -> None:
    file = read("192.0.2.7 2026-11-18T10:26:50Z\n10.0.0.0/8 2026-11-18T10:26:50Z\n192.0.2.9 60\n# words\n")
    assert file.expire(NOW + 10) == NOW + 60
    assert file.text() == "192.0.2.9 2026-11-18T10:27:40Z\n# words\n"
    assert not file.table.bans("10.1.1.1", NOW)


def test_a_time_is_never_earlier_than_what_it_stands_for() -> None:
    assert stamp(NOW + 0.001) == "2026-11-18T10:26:41Z"
    assert stamp(NOW) == "2026-11-18T10:26:40Z"


# -- On the disk --------------------------------------------------------------------------------------------


def test_a_missing_file_is_an_empty_one(tmp_path: Path) -> None:
    assert load_text(tmp_path / "bans.txt") == ""


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bans.txt"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"bans\.txt: (is not UTF-8|cannot be read)"):
        load_text(path)


def test_a_disk_image_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "bans.txt"
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(ConfigError, match="more than 64 MiB"):
        load_text(path)


def test_a_pipe_does_not_hold_up_anything(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "bans.txt")
    assert load_text(tmp_path / "bans.txt") == ""


def test_a_file_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "bans.txt"
    save_text(path, "192.0.2.7\n")
    first = path.stat()
    path.chmod(0o640)
    with path.open() as reader:
        save_text(path, "192.0.2.8\n")
        assert reader.read() == "192.0.2.7\n"
    assert path.read_text() == "192.0.2.8\n"
    assert path.stat().st_ino != first.st_ino
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.txt", tmp_path / "bans.txt"
    real.write_text("192.0.2.7\n")
    link.symlink_to(real)
    save_text(link, "192.0.2.8\n")
    assert link.is_symlink()
    assert real.read_text() == "192.0.2.8\n"


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "bans.txt").mkdir()
    with pytest.raises(OSError, match="directory"):
        save_text(tmp_path / "bans.txt", "192.0.2.7\n")
    assert [path.name for path in tmp_path.iterdir()] == ["bans.txt"]
    with pytest.raises(FileNotFoundError):
        save_text(tmp_path / "nowhere" / "bans.txt", "")


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "file", "dangling"])
def test_a_scratch_file_that_somebody_has_planted_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A link would be followed, a pipe would hold us up, and of a file somebody may keep hold."""
    monkeypatch.setattr(secrets, "token_hex", lambda size: "guessed")
    victim, planted = tmp_path / "victim", tmp_path / ".bans.txt.guessed"
    victim.write_text("precious")
    match kind:
        case "link":
            planted.symlink_to(victim)
        case "hard link":
            planted.hardlink_to(victim)
        case "pipe":
            os.mkfifo(planted)
        case "dangling":
            planted.symlink_to(tmp_path / "nowhere")
        case _:
            planted.write_text("theirs")
    with pytest.raises(FileExistsError):
        save_text(tmp_path / "bans.txt", "192.0.2.7\n")
    assert victim.read_text() == "precious"
    assert planted.is_symlink() or planted.exists(), "it is not ours to remove"
    assert not (tmp_path / "nowhere").exists()
    assert not (tmp_path / "bans.txt").exists()


def test_nobody_knows_the_name_of_the_scratch_file_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced: list[str] = []
    monkeypatch.setattr(os, "replace", lambda scratch, place: replaced.append(str(scratch)))
    for _ in range(2):
        save_text(tmp_path / "bans.txt", "192.0.2.7\n")
    first, second = (Path(name).name for name in replaced)
    assert first != second
    assert min(len(first), len(second)) >= len(".bans.txt.") + 16


def test_a_new_file_is_for_us_to_write_only(tmp_path: Path) -> None:
    save_text(tmp_path / "bans.txt", "192.0.2.7\n")
    assert (tmp_path / "bans.txt").stat().st_mode & 0o022 == 0
