"""Where each key of a TOML text stands. Called by `load`, only when there is something to point at.

`scan` reads a text that `tomllib` has accepted, so it only follows the shape and checks nothing.
A path is the keys and list indexes that lead to a value, as in what `tomllib.loads` returns.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from typing import NamedTuple

Path = tuple[str | int, ...]


class Spot(NamedTuple):
    """A place in the text; both count from 1, the column in characters."""

    line: int
    column: int


class Places:
    """The places of all keys and values of one text."""

    def __init__(self, text: str) -> None:
        self._lines = [0, *(m.end() for m in re.finditer("\n", text))]
        self._keys: dict[Path, int] = {}
        self._values: dict[Path, int] = {}

    def key(self, path: Path) -> Spot | None:
        """Where the key stands first, or the item of a list begins; None when it is not in the text."""
        return self._spot(self._keys.get(path))

    def value(self, path: Path) -> Spot | None:
        """Where the value begins; for a table with a header of its own, where that names it."""
        return self._spot(self._values.get(path, self._keys.get(path)))

    def paths(self) -> set[Path]:
        """Every path that has a place."""
        return self._keys.keys() | self._values.keys()

    def note(self, path: Path, key: int, value: int | None = None) -> None:
        """Remember offsets in the text; the first place of a path stays."""
        self._keys.setdefault(path, key)
        if value is not None:
            self._values.setdefault(path, value)

    def _spot(self, offset: int | None) -> Spot | None:
        if offset is None:
            return None
        line = bisect_right(self._lines, offset)
        return Spot(line, offset - self._lines[line - 1] + 1)


def scan(text: str) -> Places:
    """The places of everything in a text that `tomllib` accepts, with line ends as in the file."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.places


class _Header:
    """A table that headers have opened so far. `path` ends with the index of the last item of an array."""

    __slots__ = ("below", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.below: dict[str, _Header] = {}


_Part = tuple[str, int]
"""One part of a dotted key, and the offset where it begins."""


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text + "\n"
        self.places = Places(text)
        self._root = _Header(())

    def document(self) -> None:
        table: Path = ()
        at = _skip_lines(self.text, 0)
        while at < len(self.text):
            if self.text[at] == "[":
                table, at = self._header(at)
            else:
                at = self._pair(at, table)
            at = _skip_lines(self.text, at)

    def _header(self, at: int) -> tuple[Path, int]:
        """Read `[a.b]` or `[[a.b]]`; its path, and the offset behind it."""
        width = 2 if self.text.startswith("[[", at) else 1
        parts, end = self._key(at + width)
        parent = self._root
        for part in parts[:-1]:
            parent = self._open(parent, part)
        last = self._append(parent, parts[-1]) if width == 2 else self._open(parent, parts[-1])
        return last.path, end + width

    def _open(self, parent: _Header, part: _Part) -> _Header:
        name, at = part
        if name not in parent.below:
            parent.below[name] = _Header((*parent.path, name))
        self.places.note((*parent.path, name), at)
        return parent.below[name]

    def _append(self, parent: _Header, part: _Part) -> _Header:
        name, at = part
        before = parent.below.get(name)
        index = before.path[-1] if before else None
        header = _Header((*parent.path, name, index + 1 if isinstance(index, int) else 0))
        parent.below[name] = header
        self.places.note((*parent.path, name), at)
        self.places.note(header.path, at)
        return header

    def _pair(self, at: int, table: Path) -> int:
        """Read `a.b = value` inside a table; the offset behind it."""
        parts, end = self._key(at)
        value = _skip_blanks(self.text, end + 1)
        path = table
        for name, start in parts:
            path = (*path, name)
            self.places.note(path, start)
        self.places.note(path, parts[-1][1], value)
        return self._value(value, path)

    def _key(self, at: int) -> tuple[list[_Part], int]:
        parts: list[_Part] = []
        while True:
            at = _skip_blanks(self.text, at)
            match = _STRING(self.text, at) or _BARE(self.text, at)
            if match is None:
                raise ValueError(f"no key at offset {at}")
            word = match[0]
            parts.append((tomllib.loads("k=" + word)["k"] if word[0] in "\"'" else word, at))
            at = _skip_blanks(self.text, match.end())
            if self.text[at] != ".":
                return parts, at
            at += 1

    def _value(self, at: int, path: Path) -> int:
        match self.text[at]:
            case "[":
                return self._array(at + 1, path)
            case "{":
                return self._inline_table(at + 1, path)
            case _:
                match = _STRING(self.text, at) or _ATOM(self.text, at)
                return match.end() if match else at + 1

    def _array(self, at: int, path: Path) -> int:
        at, index = _skip_lines(self.text, at), 0
        while self.text[at] != "]":
            self.places.note((*path, index), at, at)
            at = _skip_lines(self.text, self._value(at, (*path, index)))
            index += 1
            if self.text[at] == ",":
                at = _skip_lines(self.text, at + 1)
        return at + 1

    def _inline_table(self, at: int, path: Path) -> int:
        at = _skip_lines(self.text, at)
        while self.text[at] != "}":
            at = _skip_lines(self.text, self._pair(at, path))
            if self.text[at] == ",":
                at = _skip_lines(self.text, at + 1)
        return at + 1


def _skip_blanks(text: str, at: int) -> int:
    match = _BLANKS(text, at)
    return match.end() if match else at


def _skip_lines(text: str, at: int) -> int:
    """The offset behind blanks, line ends and comments."""
    match = _LINES(text, at)
    return match.end() if match else at


_BLANKS = re.compile(r"[ \t]*").match
_LINES = re.compile(r"(?:[ \t]*+(?:#[^\n]*+)?\r?\n)*+[ \t]*+").match
_BARE = re.compile(r"[A-Za-z0-9_-]+").match
_ATOM = re.compile(r"[^,\]}#\n]+").match
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}' r"|'''.*?'{3,5}" r'|"(?:\\.|[^"\\\n])*+"' r"|'[^'\n]*+'",
    re.DOTALL,
).match
