"""Log lines leave in batches, files can be opened again, and a failing disk is reported once."""

import errno
import os
import resource
import signal
import stat
from contextlib import contextmanager
from itertools import pairwise

import pytest
from twisted.internet.task import Clock
from twisted.logger import Logger

from rproxy.errors import StartError
from rproxy.services.lines import (
    BATCH,
    FLUSH_EVERY,
    MOST_WAITING,
    LineBatch,
    LogFile,
    LogFiles,
    to_descriptor,
)
from tests.fakes import LogLines, open_files


class Sink:
    """Collects, and fails while it is told to."""

    def __init__(self):
        self.writes, self.failing = [], False

    def __call__(self, lines):
        if self.failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.writes.append(lines)


def batch():
    clock, sink = Clock(), Sink()
    return clock, sink, LineBatch(clock, sink, "the log", Logger("test.lines"))


def test_lines_wait_for_company():
    clock, sink, lines = batch()
    lines.add("a\n")
    lines.add("b\n")
    clock.advance(FLUSH_EVERY / 2)
    assert sink.writes == []
    clock.advance(FLUSH_EVERY / 2)
    assert sink.writes == [b"a\nb\n"]
    assert clock.getDelayedCalls() == []


def test_many_lines_do_not_wait():
    clock, sink, lines = batch()
    for _ in range(BATCH):
        assert sink.writes == []
        lines.add("a\n")
    assert sink.writes == [b"a\n" * BATCH]
    assert clock.getDelayedCalls() == []


def test_long_lines_do_not_wait():
    _, sink, lines = batch()
    lines.add("a" * (MOST_WAITING - 1))
    assert sink.writes == []
    lines.add("\n")
    assert sink.writes == [b"a" * (MOST_WAITING - 1) + b"\n"]
    lines.add("b\n")
    assert len(sink.writes) == 1


def test_flush_with_nothing_waiting_writes_nothing():
    _, sink, lines = batch()
    lines.flush()
    assert sink.writes == []


def test_characters_that_are_not_ascii_are_written_as_escapes():
    _, sink, lines = batch()
    lines.add("é\n")
    lines.flush()
    assert sink.writes == [b"\\xe9\n"]


def test_a_full_disk_is_reported_once_and_so_is_its_end():
    _, sink, lines = batch()
    sink.failing = True
    with LogLines() as log:
        for _ in range(3):
            lines.add("a\n")
            lines.flush()
        sink.failing = False
        lines.add("b\n")
        lines.flush()
    assert log.texts("test.lines") == [
        "the log cannot be written: No space left on device",
        "the log is written again; 3 lines are lost",
    ]
    assert sink.writes == [b"b\n"]


def test_a_sink_with_a_mistake_costs_its_lines_only():
    _, sink, lines = batch()
    failures = [ValueError("a mistake"), ValueError("the same")]

    def mistaken(octets):
        if failures:
            raise failures.pop()
        sink(octets)

    lines._sink = mistaken
    with LogLines() as log:
        for text in ("lost\n", "lost, too\n", "written\n"):
            lines.add(text)
            lines.flush()
    assert sink.writes == [b"written\n"]
    assert log.texts("test.lines") == [
        "the log cannot be written: ValueError('the same')",
        "the log is written again; 2 lines are lost",
    ]


def test_all_of_a_large_write_reaches_a_descriptor():
    read, write = os.pipe()
    os.set_blocking(write, True)
    to_descriptor(write)(b"a" * 50_000)
    assert len(os.read(read, 100_000)) == 50_000
    os.close(read)
    os.close(write)


def test_a_log_file_is_added_to_and_not_for_everybody(tmp_path):
    path = tmp_path / "a.log"
    before = os.umask(0)
    try:
        file = LogFile(Clock(), path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    file.lines.add("a\n")
    file.close()
    again = LogFile(Clock(), path)
    again.lines.add("b\n")
    again.close()
    assert path.read_text() == "a\nb\n"


def test_a_file_that_cannot_be_opened_stops_the_start(tmp_path):
    with pytest.raises(
        StartError, match=r"access_log: .*/none/a cannot be opened: No such file or directory"
    ):
        LogFile(Clock(), tmp_path / "none" / "a")


def test_a_pipe_that_nobody_reads_stops_the_start_instead_of_holding_it_up(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StartError, match="pipe cannot be opened"):
        LogFile(Clock(), tmp_path / "pipe")


def test_after_logrotate_lines_go_to_the_new_file(tmp_path):
    path, old = tmp_path / "a.log", tmp_path / "a.log.1"
    file = LogFile(Clock(), path)
    file.lines.add("before\n")
    path.rename(old)
    file.lines.add("meanwhile\n")
    file.reopen()
    file.lines.add("after\n")
    file.close()
    assert (old.read_text(), path.read_text()) == ("before\nmeanwhile\n", "after\n")


def test_a_truncated_file_is_written_from_its_beginning(tmp_path):
    path = tmp_path / "a.log"
    file = LogFile(Clock(), path)
    file.lines.add("before\n")
    file.lines.flush()
    os.truncate(path, 0)
    file.lines.add("after\n")
    file.close()
    assert path.read_text() == "after\n"


def test_a_file_that_cannot_be_opened_again_stays(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    file = LogFile(Clock(), folder / "a.log")
    folder.rename(tmp_path / "moved")
    with LogLines() as log:
        file.reopen()
    assert log.texts("rproxy.services.lines") == [
        f"the log file {folder}/a.log stays as it was: No such file or directory"
    ]
    file.lines.add("a\n")
    file.close()
    assert (tmp_path / "moved" / "a.log").read_text() == "a\n"


def test_lines_that_come_after_the_close_touch_no_other_file(tmp_path):
    file = LogFile(Clock(), tmp_path / "a.log")
    file.close()
    with open(tmp_path / "other", "wb"):  # has the descriptor now
        file.lines.add("late\n")
        file.lines.flush()
    assert (tmp_path / "other").read_bytes() == b""
    assert (tmp_path / "a.log").read_text() == "late\n"


@contextmanager
def files_at_most(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize(("room", "left"), [(6, "first\nafter\n"), (8, "first\nse\nafter\n"), (0, "after\n")])
def test_a_line_that_was_cut_by_a_full_disk_is_not_continued(tmp_path, room, left):
    file = LogFile(Clock(), tmp_path / "a.log")
    with files_at_most(room):
        file.lines.add("first\nsecond\n")
        file.lines.flush()
    file.lines.add("after\n")
    file.close()
    assert (tmp_path / "a.log").read_text() == left


def test_a_full_disk_is_reported_once_however_many_write_there(tmp_path):
    files = LogFiles(Clock())
    path = tmp_path / "a.log"
    with LogLines() as log, files_at_most(0):
        for _ in range(3):
            files.at(path).lines.add("a\n")
            files.at(path).lines.flush()
    assert log.texts("rproxy.services.lines") == [f"the log file {path} cannot be written: File too large"]
    files.keep([])


def test_one_path_is_one_file(tmp_path):
    files = LogFiles(Clock())
    assert files.at(tmp_path / "a") is files.at(tmp_path / "a")
    assert files.at(tmp_path / "a") is not files.at(tmp_path / "b")
    files.keep([])


def test_every_file_is_opened_again(tmp_path):
    files = LogFiles(Clock())
    for name in "ab":
        files.at(tmp_path / name)
        (tmp_path / name).unlink()
    files.reopen()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    files.keep([])


def test_files_that_a_reload_does_not_name_are_written_and_closed(tmp_path):
    files = LogFiles(Clock())
    before = open_files(str(tmp_path))
    kept, dropped = files.at(tmp_path / "a"), files.at(tmp_path / "b")
    dropped.lines.add("last\n")
    files.keep([tmp_path / "a"])
    assert (tmp_path / "b").read_text() == "last\n"
    assert files.at(tmp_path / "a") is kept
    files.keep([])
    assert open_files(str(tmp_path)) <= before


def test_reopening_costs_no_descriptors(tmp_path):
    files = LogFiles(Clock())
    files.at(tmp_path / "a")
    counts = []
    for _ in range(3):
        files.reopen()
        counts.append(len(open_files(str(tmp_path))))
    assert all(first == second for first, second in pairwise(counts))
    files.keep([])
