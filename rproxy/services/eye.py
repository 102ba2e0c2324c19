"""An eye on files that somebody else writes: what is in them is used once it is whole. For `certificates`."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
Read = TypeVar("Read", covariant=True)


class Readable(Protocol[Read]):
    """Files, as a value that is equal to one which gives the same."""

    def fingerprint(self) -> Hashable:
        """Cheap; differs once `load` may give something else."""

    def load(self) -> Read:
        """What is in them now. Raises `ValueError` with a sentence."""


class Eye(Generic[T]):
    """Looks at one source, and keeps what was last found in it."""

    def __init__(
        self, source: Readable[T], check: Callable[[T], None], complain: Callable[[str], None]
    ) -> None:
        """Reads it for the first time, raising what `load` and `check` do; later `complain` is told instead.

        `check` raises `ValueError` for what can be read and is of no use.
        """
        self.source, self._check, self._complain = source, check, complain
        self._seen = source.fingerprint()  # before reading: what changes meanwhile is seen at the next look
        self.found = self._read()
        self._troubled: Hashable = None
        self._told = ""

    @property
    def trouble(self) -> str:
        """Why what is there now is not used; empty once it is, and until it has been told."""
        return self._told

    def look(self) -> bool:
        """Whether there is something else in `found` now.

        Files that belong together are written one after the other, so trouble is told once it has lasted for
        two looks, and read again at each.
        """
        fingerprint = self.source.fingerprint()
        if fingerprint == self._seen:
            return False
        try:
            found = self._read()
        except ValueError as problem:
            if fingerprint == self._troubled and str(problem) != self._told:
                self._told = str(problem)
                self._complain(self._told)
            self._troubled = fingerprint
            return False
        self._seen, self._troubled, self._told = fingerprint, None, ""
        if not found or found == self.found:  # a file that is gone takes nothing away
            return False
        self.found = found
        return True

    def _read(self) -> T:
        found = self.source.load()
        self._check(found)
        return found
