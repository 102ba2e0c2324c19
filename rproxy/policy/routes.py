"""Which of the configured names a connection or a request is for; asked by `services.routing`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class NameTable(Generic[T]):
    """Exact names and wildcards with what serves them; never changes, a reload makes a new one.

    The keys are what `hostname.canonical_pattern` returns, the values are never None.
    """

    __slots__ = ("_below", "_exact", "_longest")

    def __init__(self, patterns: Mapping[str, T]) -> None:
        self._exact = {name: value for name, value in patterns.items() if not name.startswith("*.")}
        self._below = {name[2:]: value for name, value in patterns.items() if name.startswith("*.")}
        self._longest = max(map(len, self._below), default=0)

    def find(self, name: str) -> T | None:
        """What serves a canonical name: its own entry, else the longest wildcard it lies below, else None.

        `*.example.org` covers one or more labels below example.org, not example.org itself. Costs at most one
        dictionary look-up per label, whatever the size of the table.
        """
        found = self._exact.get(name)
        return found if found is not None or not self._below else self._find_below(name)

    def _find_below(self, name: str) -> T | None:
        # A client may send 127 labels; no part longer than our longest wildcard needs a look.
        dot = name.find(".", max(0, len(name) - self._longest - 1))
        while dot >= 0:
            found = self._below.get(name[dot + 1 :])
            if found is not None:
                return found
            dot = name.find(".", dot + 1)
        return None
