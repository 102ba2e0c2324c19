"""The ban list as a file: one address or network per line, when its ban ends, and why. For `bans`.

    # who tried the passwords of the shop
    192.0.2.7
    198.51.100.0/24  2026-11-21T13:00:00Z
    2001:db8::/64    3600                   # an hour from the moment the line is read

Everything that stands there stays when the proxy writes it anew, but for bans that are over.
"""

from __future__ import annotations

import os
import re
import secrets
from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from rproxy.errors import ConfigError, Problem
from rproxy.policy.bantable import EVER, BanTable, Network, read_network

MOST_BYTES: Final = 64 << 20
"""A file of MOST_BANS lines with times and words has less, and a wrong file does not fill the memory."""
MOST_BANS: Final = 500_000
"""Bans at a time, without those of jails: 150 MB. Whoever has more enemies needs a firewall."""
MOST_JAILED: Final = 50_000
"""Bans of jails at a time, besides: 40 MB, and 15 ms for each writing of the file. Strangers decide how many
there are, so jails have a share of their own and take nobody else's: an IPv6 /32 is 2^32 clients to ban."""
JAILED: Final = "# jail: "
"""How the note of a jail's ban begins; what comes back from the file counts as one, too."""
MOST_PROBLEMS: Final = 20
"""Mistakes that are told of one file."""
LATEST: Final = 253_402_300_799
"""The end of the year 9999, in seconds since 1970: no later moment can be written down."""
LONGEST: Final = 365 * 86400
"""Seconds that a ban lasts, unless it is for ever; more is a mistaken unit."""
SLICE: Final = 500
"""Lines that are read in one turn of the event loop: two milliseconds."""


class Line(NamedTuple):
    """A ban as it stands in the file."""

    network: Network
    until: float
    """Seconds since 1970, or `EVER`."""
    moves: bool
    """Whether the end was counted from now, and has to be written down."""
    note: str
    """With its `#`, or empty."""


class BanFile:
    """What a file says: the table, and all lines in their order."""

    def __init__(self) -> None:
        self.table = BanTable()
        self.lines: dict[str, str] = {}
        """By the text of the network; other lines by `#` and a number."""
        self._jailed: OrderedDict[str, None] = OrderedDict()
        self.moved = False
        """Whether the file should be written anew at once."""

    def add(self, network: Network, until: float, note: str = "") -> str:
        """Ban; a line that is there already keeps its place.

        Returns what is not banned any more for it: where jails have as many as they may, their oldest.
        """
        return self._put(network, until, note, written(network.text, until, note))

    @property
    def jailed(self) -> int:
        """How many bans are of jails."""
        return len(self._jailed)

    def is_full_for(self, network: Network) -> bool:
        """Whether this would be one too many of those that are not."""
        is_there = self.table.until(network.text) is not None and network.text not in self._jailed
        return not is_there and len(self.table) - len(self._jailed) >= MOST_BANS

    def remove(self, network: Network) -> bool:
        """Lift a ban; whether there was one."""
        self.lines.pop(network.text, None)
        self._jailed.pop(network.text, None)
        return self.table.remove(network)

    def expire(self, now: float) -> float:
        """Drop the bans that are over. Returns when the next one will be, or `EVER`."""
        for text in self.table.over(now):
            self.remove(read_network(text))
        self.table.settle()
        return self.table.next_end

    def text(self) -> str:
        """The file as it should be."""
        return "\n".join([*self.lines.values(), ""])

    def _put(self, network: Network, until: float, note: str, line: str) -> str:
        oldest = ""
        self._jailed.pop(network.text, None)
        if note.startswith(JAILED):
            if len(self._jailed) >= MOST_JAILED:
                oldest = next(iter(self._jailed))
                self.remove(read_network(oldest))
            self._jailed[network.text] = None
        self.table.add(network, until)
        self.lines[network.text] = line
        return oldest


def read_lines(text: str, filename: str, now: float, into: BanFile) -> Iterator[None]:
    """Fill `into` from a file's text, a slice of lines for each step. Raises `ConfigError` at the end."""
    problems: list[Problem] = []
    for number, line in enumerate(text.splitlines(), 1):
        if number % SLICE == 0:
            yield
        try:
            _take(line, number, now, into)
        except ValueError as mistake:
            problems.append(Problem(filename, number, 1, "", str(mistake), source=_shown(line)))
            if len(problems) == MOST_PROBLEMS:
                break
    into.table.settle()
    if problems:
        raise ConfigError(problems)


def read_line(line: str, now: float) -> Line | None:
    """The ban in a line; None if there is none. Raises ValueError with what to write."""
    said, mark, note = line.partition("#")
    words = said.split()
    if not words:
        return None
    if len(words) > 2:
        raise ValueError("a line is an address and, if its ban ends, a time; words go behind a #")
    network = read_network(words[0])
    until, moves = _until(words[1], now) if len(words) == 2 else (EVER, False)
    return Line(network, until, moves, mark + note.rstrip())


def written(text: str, until: float, note: str = "") -> str:
    """A line of the file, without its end."""
    time = "" if until == EVER else " " + stamp(until)
    return f"{text}{time} {note}" if note else text + time


def stamp(until: float) -> str:
    """A moment as RFC 3339 has it, in whole seconds and not before it."""
    return datetime.fromtimestamp(-(-until // 1), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def load_text(path: Path) -> str:
    """The text of a file; empty if there is none. Raises `ConfigError`."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ConfigError([Problem(str(path), 0, 0, "", f"has more than {MOST_BYTES >> 20} MiB")])
        return content.decode("utf-8")
    except FileNotFoundError:
        return ""
    except OSError as problem:
        raise ConfigError([Problem(str(path), 0, 0, "", f"cannot be read: {problem.strerror}")]) from None
    except UnicodeDecodeError:
        raise ConfigError([Problem(str(path), 0, 0, "", "is not UTF-8")]) from None


def save_text(path: Path, text: str) -> None:
    """Put a new file in the place of the old one, whole. Raises OSError.

    Not synced to the disk: that can take a second, in which nobody would be served, and what is lost when
    the power fails is the ban of a moment ago. The name of the new one cannot be guessed, so that in a folder
    where others may write nobody can be in its way.
    """
    place = Path(os.path.realpath(path))  # a link stays a link
    scratch = place.with_name(f".{place.name}.{secrets.token_hex(8)}")
    file = open(scratch, "x", encoding="utf-8", opener=_create)  # noqa: SIM115 (what is not ours stays)
    try:
        with file:
            try:
                os.fchmod(file.fileno(), place.stat().st_mode & 0o777)
            except FileNotFoundError:
                pass
            file.write(text)
        os.replace(scratch, place)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise


def _take(line: str, number: int, now: float, into: BanFile) -> None:
    found = read_line(line, now)
    if found is None:
        into.lines[f"#{number}"] = line.rstrip()
        return
    network, until, moves, note = found
    if network.text in into.lines:
        raise ValueError(f"{network.text} stands in this file already")
    if not note.startswith(JAILED) and into.is_full_for(network):
        raise ValueError(f"this is more than {MOST_BANS} bans: a firewall is the place for so many")
    into.moved |= moves
    into._put(network, until, note, written(network.text, until, note) if moves else line.rstrip())


def _until(word: str, now: float) -> tuple[float, bool]:
    """When a ban ends, and whether that was counted from now."""
    if word.isascii() and word.isdigit():
        if not 0 < int(word[:12]) <= LONGEST:
            raise ValueError(f"{word[:20]} is no number of seconds from 1 to {LONGEST}, which is a year")
        return now + int(word), True
    if not _TIME(word):
        raise ValueError(f"{word[:40]!r} is no time: write 2026-11-21T13:00:00Z, or a number of seconds")
    try:
        end = datetime.fromisoformat(word).timestamp()
    except ValueError:
        raise ValueError(f"{word!r} is no moment that there is") from None
    if not 0 <= end <= LATEST:
        raise ValueError(f"{word!r} is not in the years 1970 to 9999; a ban without a time has no end")
    return end, False


def _shown(line: str) -> str:
    return "".join(c if c.isprintable() else "·" for c in line[:200])


def _open_at_once(path: str, flags: int) -> int:
    """A pipe must not hold up the start."""
    return os.open(path, flags | os.O_NONBLOCK)


def _create(path: str, flags: int) -> int:
    """Readable for all, as logs say the same; "x" takes no file and follows no link that is there already."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o644)


_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII).fullmatch
