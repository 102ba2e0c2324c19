"""What every test with real programs stands on: the programs' lives, the peers, a limit on time."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from tests.e2e.peers import Certificate, self_signed
from tests.e2e.programs import Programs
from tests.e2e.streams import Backend

LONGEST = 80
"""Seconds that one test may take; most take less than one."""

# A shell's background jobs ignore it, and so would the programs that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

Peer = Callable[[str], str]
Serving = Callable[..., Backend]


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    """No test hangs."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"the test has taken {LONGEST} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def peer() -> Peer:
    """The path of a program that a test needs: without it a skip, or a failure where CI is set."""

    def find(name: str) -> str:
        path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if path is None and os.environ.get("CI"):
            pytest.fail(f"{name} is not installed")
        if path is None:
            pytest.skip(f"{name} is not installed")
        return path

    return find


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder that anybody may enter, with a path that leaves room for a unix socket's 108 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="rproxy-"))
    folder.chmod(0o755)
    yield folder
    for closed in folder.iterdir():
        if closed.is_dir() and not closed.is_symlink():
            closed.chmod(0o700)
    shutil.rmtree(folder)


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    running = Programs(tmp_path)
    yield running
    running.end()


@pytest.fixture(scope="module")
def lasting_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """Programs that serve all tests of a file."""
    running = Programs(tmp_path_factory.mktemp("programs"))
    yield running
    running.end()


@pytest.fixture
def serving() -> Iterator[Serving]:
    """Makes `Backend`s that end with the test."""
    made: list[Backend] = []

    def make(serve: Callable[..., None], path: Path | None = None) -> Backend:
        made.append(Backend(serve, path))
        return made[-1]

    yield make
    for backend in made:
        backend.end()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """One certificate for every name that these tests use."""
    return self_signed(tmp_path_factory.mktemp("certificate"), "a.test", "b.test", "*.wild.test", "c.test")
