"""What the schema knows and this version does not do; to build a feature is to delete its row. For `load`.

A key that would be ignored is worse than a file that does not load, so each of these is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from rproxy.config.mistakes import Mistake, Path


class Row(NamedTuple):
    """A key, `*` standing for any name, that is refused; `fine` are values that change nothing.

    With `only`, just these values are refused, alone or in a list.
    """

    key: str
    feature: str
    fine: tuple[object, ...] = ()
    only: tuple[object, ...] = ()


NOT_YET: Final = (
    Row("workers", "more than one process", fine=(1,)),
    Row("experimental.connection_handling_timeout", "a limit on whole connections", fine=(0,)),
    Row("experimental.h3", "HTTP/3"),
    Row("experimental.cache", "the response cache"),
)


def pending(table: dict[str, Any], rows: Sequence[Row] = NOT_YET) -> Iterator[Mistake]:
    """One mistake for each place in a file that asks for something not built yet."""
    for row in rows:
        for path, value in _matches(table, row.key.split("."), ()):
            if _is_refused(row, value):
                yield Mistake(
                    path, f"not supported yet ({row.feature})", "remove it, or put a # in front", at_key=True
                )


def _is_refused(row: Row, value: object) -> bool:
    if row.only:
        return any(each in row.only for each in (value if isinstance(value, list) else [value]))
    return not any(value is fine or (value == fine and type(value) is type(fine)) for fine in row.fine)


def _matches(node: object, keys: Sequence[str], path: Path) -> Iterator[tuple[Path, object]]:
    if not keys:
        yield path, node
    elif isinstance(node, dict):
        for key in list(node) if keys[0] == "*" else [keys[0]]:
            if key in node:
                yield from _matches(node[key], keys[1:], (*path, key))
    elif isinstance(node, list):
        for index, item in enumerate(node):
            yield from _matches(item, keys, (*path, index))
