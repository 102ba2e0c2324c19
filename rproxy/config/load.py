"""A config file as a `Configuration`, or every mistake in it at once. For `assemble` and `rproxy check`.

Nothing here opens a file that the config names: whether a certificate can be read is found out
when it is used, so that a file can be checked on another machine.
"""

from __future__ import annotations

import copy
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any, Final, NamedTuple

from pydantic import ValidationError
from twisted.logger import Logger

from rproxy.config.checks import Found, check
from rproxy.config.concerns import concerns
from rproxy.config.forms import Forms
from rproxy.config.mistakes import Mistake, Path, Spoilt, mistakes_of, resolve
from rproxy.config.notyet import NOT_YET, Row, pending
from rproxy.config.positions import Places, Spot, scan
from rproxy.config.schema import Configuration
from rproxy.errors import ConfigError, Problem

log = Logger()

MAX_FILE: Final = 16 * 1024 * 1024
"""Bytes of a file: room for 50,000 apps, and a path that leads to a disk image does not fill the memory."""
MAX_DEPTH: Final = 32
"""Tables and lists inside each other: four times what any key needs, far below the interpreter's limit."""
NOWHERE: Final = Spot(0, 0)
MAX_SOURCE: Final = 200
"""Characters of a line that are shown beside a problem."""


class Examined(NamedTuple):
    """A configuration, and what is allowed in its file and yet hardly meant, in the file's order."""

    config: Configuration
    concerns: list[Problem]


def load(path: str | os.PathLike[str]) -> Configuration:
    """The configuration in a file; relative paths in it start from its folder. Raises `ConfigError`.

    Concerns are logged as warnings.
    """
    found = examine(path)
    for concern in found.concerns:
        log.warn("{concern}", concern=str(concern))
    return found.config


def examine(path: str | os.PathLike[str]) -> Examined:
    """The same with the concerns, for whoever shows them elsewhere than in the log. Raises `ConfigError`."""
    filename = os.fspath(path)
    return _examined(_decoded(_read(filename), filename), filename, NOT_YET)


def parse(text: str, filename: str, rows: Sequence[Row] = NOT_YET) -> Configuration:
    """The configuration in a text that came from `filename`, which need not exist. Raises `ConfigError`.

    `rows` is what is refused as not supported yet.
    """
    return _examined(text, filename, rows).config


def _examined(text: str, filename: str, rows: Sequence[Row]) -> Examined:
    table = _table(text, filename)
    forms = Forms(table)
    config, mistakes = _validated(table, FilePath(filename).absolute().parent)
    refused = list(pending(table, rows))
    findings = check(config) if config else ()
    mistakes = [*mistakes, *_unspoilt(findings, [*mistakes, *refused], forms)]
    mistakes = _merged(refused, mistakes)
    if mistakes or config is None:
        raise ConfigError(_Report(text, filename, table).problems(mistakes))
    unwise = [_in_file(concern, forms) for concern in concerns(config)]
    return Examined(config.settled(), _Report(text, filename, table).problems(unwise) if unwise else [])


def _read(filename: str) -> bytes:
    try:
        with open(filename, "rb") as file:
            content = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        raise _refused(filename, "there is no such file") from None
    except IsADirectoryError:
        raise _refused(filename, "this is a directory, not a file", "name the .toml file in it") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise _refused(filename, f"cannot be read: {reason}") from None
    if len(content) > MAX_FILE:
        raise _refused(filename, f"the file has more than {MAX_FILE >> 20} MiB", "is it a config file?")
    return content


def _decoded(content: bytes, filename: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        good = content[: error.start]
        line, column = good.count(b"\n") + 1, len(good[good.rfind(b"\n") + 1 :].decode("utf-8")) + 1
        message = f"the file is not UTF-8: byte 0x{content[error.start]:02x}"
        raise _refused(filename, message, "save it as UTF-8", Spot(line, column)) from None


def _table(text: str, filename: str) -> dict[str, Any]:
    """What `tomllib` makes of a text; anything it cannot read is one problem."""
    if text.startswith("\ufeff"):
        raise _refused(
            filename, "the file begins with a byte order mark", "save it as UTF-8 without BOM", Spot(1, 1)
        )
    if "\0" in text:
        raise _refused(filename, "the file contains a NUL character", "", _spot_at(text, text.index("\0")))
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax_problem(str(error), text, filename)]) from None
    except RecursionError:
        raise _refused(filename, _TOO_DEEP) from None
    except ValueError as error:  # a number that Python will not read
        raise _refused(filename, f"not valid TOML: {error}") from None
    if _is_deep(table):
        raise _refused(filename, _TOO_DEEP)
    return table


def _is_deep(table: dict[str, Any]) -> bool:
    level: list[Any] = [table]
    for _ in range(MAX_DEPTH):
        level = [item for node in level for item in (node.values() if isinstance(node, dict) else node)]
        level = [node for node in level if isinstance(node, dict | list)]
    return bool(level)


def _syntax_problem(error: str, text: str, filename: str) -> Problem:
    match = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", error, re.DOTALL)
    message = match[1] if match else error
    spot = Spot(int(match[2]), int(match[3])) if match and match[2] else _spot_at(text, len(text.rstrip()))
    hint = next((hint for start, hint in _SYNTAX_HINTS if message.startswith(start)), "")
    source = _source_line(text, spot)
    return Problem(filename, spot.line, spot.column, "", f"not valid TOML: {message}", hint, source)


def _validated(table: dict[str, Any], base: FilePath) -> tuple[Configuration | None, list[Mistake]]:
    """The models of a table; with mistakes in it, of what remains without them, or None if too little."""
    context = {"base": base}
    first: list[Mistake] | None = None
    rest = table
    for _ in range(MAX_DEPTH):
        try:
            return Configuration.model_validate(rest, context=context), first or []
        except ValidationError as error:
            mistakes = mistakes_of(error, rest)
        rest = copy.deepcopy(table) if first is None else rest
        first = first or mistakes
        if not all(_prune(rest, mistake.path) for mistake in mistakes):
            break
    return None, first or []


def _prune(table: dict[str, Any], path: Path) -> bool:
    """Take out what is wrong, whole lists at a time so that no index changes; False if it is everything."""
    keys = path[: next((i for i, part in enumerate(path) if isinstance(part, int)), len(path))]
    node: Any = table
    for key in keys[:-1]:
        node = node.get(key, {})
    if keys:
        node.pop(keys[-1], None)
    return bool(keys)


def _unspoilt(findings: Iterable[Found], mistakes: list[Mistake], forms: Forms) -> Iterator[Mistake]:
    """The findings that rest on nothing spoilt, at paths of the file."""
    spoilt = Spoilt(mistakes)
    for found in findings:
        if not any(forms.path(path) in spoilt for path in found.about):
            yield _in_file(found.mistake, forms)


def _in_file(mistake: Mistake, forms: Forms) -> Mistake:
    other = forms.path(mistake.other) if mistake.other else None
    return replace(mistake, path=forms.path(mistake.path), other=other)


def _merged(refused: list[Mistake], mistakes: list[Mistake]) -> list[Mistake]:
    """All mistakes; where a value is refused as a whole, what is wrong with it does not matter."""
    paths = {mistake.path for mistake in refused}
    return refused + [mistake for mistake in mistakes if mistake.path not in paths]


class _Report:
    """Turns mistakes into problems with a place."""

    def __init__(self, text: str, filename: str, table: dict[str, Any]) -> None:
        self._text, self._filename, self._tree = text, filename, table
        self._lines = text.split("\n")
        self._places: Places = scan(text)

    def problems(self, mistakes: list[Mistake]) -> list[Problem]:
        """In the order of the file; those of the file as a whole come first."""
        found = [self._problem(mistake) for mistake in mistakes]
        return sorted(found, key=lambda problem: (problem.line, problem.column, problem.key, problem.message))

    def _problem(self, mistake: Mistake) -> Problem:
        path = resolve(self._tree, mistake.path)
        spot = self._spot(path, mistake.at_key) or NOWHERE
        message = mistake.message + self._second_place(mistake)
        source = _source_of(self._lines, spot)
        return Problem(self._filename, spot.line, spot.column, shown(path), message, mistake.hint, source)

    def _spot(self, path: Path, at_key: bool) -> Spot | None:
        """The place of a path, or of what it is in."""
        spot = (self._places.key if at_key else self._places.value)(path)
        return spot if spot or not path else self._spot(path[:-1], at_key=True)

    def _second_place(self, mistake: Mistake) -> str:
        spot = self._spot(resolve(self._tree, mistake.other), at_key=True) if mistake.other else None
        return f", line {spot.line}" if spot else ""


def shown(path: Path) -> str:
    """A path as people write it: `apps.site.reverse_proxy[0].upstream`, `apps."my site"`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += "." * bool(text) + (part if _BARE(part) else _quoted_key(part))
    return text


def _quoted_key(key: str) -> str:
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\u{ord(c):04x}" for c in key) + '"'


def _refused(filename: str, message: str, hint: str = "", spot: Spot = NOWHERE) -> ConfigError:
    return ConfigError([Problem(filename, *spot, "", message, hint)])


def _spot_at(text: str, offset: int) -> Spot:
    return Spot(text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset))


def _source_line(text: str, spot: Spot) -> str:
    return _source_of(text.split("\n"), spot)


def _source_of(lines: list[str], spot: Spot) -> str:
    """The line to show under a problem; none when the place is too far to the right to be seen."""
    if not 1 <= spot.line <= len(lines) or spot.column > MAX_SOURCE:
        return ""
    line = lines[spot.line - 1].rstrip("\r")
    return "".join(c if c.isprintable() or c == "\t" else "·" for c in line[:MAX_SOURCE])


_BARE = re.compile(r"[A-Za-z0-9_-]+").fullmatch
_TOO_DEEP: Final = f"tables and lists lie more than {MAX_DEPTH} deep inside each other"
_SYNTAX_HINTS: Final = (
    ("Invalid value", 'texts need quotes: key = "text"'),
    ("Invalid statement", "a line is a [table], or key = value"),
    ("Expected '='", "a line is a [table], or key = value"),
    ("Cannot overwrite", "this key stands here twice"),
    ("Cannot declare", "this table is opened twice; move its keys together"),
    ("Duplicate inline", "this key stands here twice"),
    ("Unclosed inline", "a table in braces ends on the line where it begins"),
    ("Expected newline", "one key per line; texts need quotes"),
    ("Unterminated string", "the closing quote is missing"),
    ("Unescaped '\\'", "write paths with single quotes: 'C:\\path'"),
)
