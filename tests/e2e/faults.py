"""A library that makes a program's system calls on sockets fail at random; see faults.c."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import NamedTuple

from tests.e2e.programs import environment, run

CALLS = ("receive", "send", "splice", "accept", "connect", "wait")
KINDS = ("passed", "again", "interrupted", "no buffers", "short", "hard")
HEAD = struct.Struct("=4Q")
"""The seed, how many numbers were drawn, and the two rates."""
COUNTS = struct.Struct(f"={len(CALLS) * len(KINDS)}Q")
OF = 65536


class Counts(NamedTuple):
    """How often each call did what."""

    of: dict[tuple[str, str], int]

    def total(self, call: str, *kinds: str) -> int:
        return sum(self.of[call, kind] for kind in kinds)


class Faults:
    """The library for one program, and how often it makes a call fail; at first never."""

    def __init__(self, compiler: str, folder: Path, seed: int) -> None:
        source, self._library = Path(__file__).with_name("faults.c"), folder / "faults.so"
        options = ("-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", self._library)
        built = run([compiler, *options, source])
        assert built.returncode == 0, built.stderr
        self._file = folder / "faults.table"
        self._file.write_bytes(bytes(HEAD.size + COUNTS.size))
        with self._file.open("r+b") as file:
            self._table = mmap.mmap(file.fileno(), 0)
        self._table[: HEAD.size] = HEAD.pack(seed, 0, 0, 0)

    @property
    def environment(self) -> dict[str, str]:
        """For the program; it must start no others."""
        return environment(LD_PRELOAD=str(self._library), FAULTS_TABLE=str(self._file))

    def set(self, soft: float, hard: float) -> None:
        """So many of all calls fail from now on, softly or hard."""
        self._table[HEAD.size - 16 : HEAD.size] = struct.pack("=2Q", int(soft * OF), int(hard * OF))

    @property
    def counts(self) -> Counts:
        """What has been done so far."""
        counts = iter(COUNTS.unpack(self._table[HEAD.size : HEAD.size + COUNTS.size]))
        return Counts({(call, kind): next(counts) for call in CALLS for kind in KINDS})
