"""Both twins of a module: as Python, and the compiled one in use; where there is none it is made here."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from tests.native.twins import NATIVE, Twins, built, in_use, loaded


@pytest.fixture(scope="session")
def twins_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Twins]:
    """By the module's name."""

    @cache
    def find(name: str) -> Twins:
        compiled = in_use(name) or loaded(name, built(name, tmp_path_factory.mktemp(name)))
        return Twins(loaded(f"{name}_in_python", NATIVE / f"{name}.py"), compiled)

    return find


@pytest.fixture(scope="session")
def sockets(twins_of: Callable[[str], Twins]) -> Twins:
    return twins_of("sockets")


@pytest.fixture(params=["python", "compiled"])
def one(request: pytest.FixtureRequest, sockets: Twins) -> Any:
    """One of the twins of `sockets`."""
    return getattr(sockets, request.param)
