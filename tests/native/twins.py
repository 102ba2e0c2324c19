"""What is written twice (see `rproxy.native`), loaded both ways: shared by the tests of this folder.

To look for errors of memory, run these tests with nothing compiled in the tree and with a sanitizer:

    CFLAGS='-O1 -g -fno-wrapv -fsanitize=address,undefined' LDFLAGS='-fsanitize=address,undefined' \\
    LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \\
    ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc python -m pytest tests/native

which compiles the sources in Cython with these flags. `PYTHONMALLOC=debug` needs nothing else.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from hypothesis import settings

NATIVE = Path(__file__).parents[2] / "rproxy" / "native"
SUFFIX: str = sysconfig.get_config_var("EXT_SUFFIX")
LONGEST = 300
"""Seconds that compiling one may take; it takes two, and ten with a sanitizer."""

patient = settings(deadline=None)
"""For tests of any bytes: no time limit for one example, which a busy machine may not keep."""


class Twins(NamedTuple):
    """One module, as Python and as it is compiled."""

    python: ModuleType
    compiled: ModuleType


def loaded(name: str, file: Path) -> ModuleType:
    """A module from this very file, whatever else goes by its name."""
    spec = spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def one_for(stand_in: type, name: str, function: str) -> Callable[..., Any]:
    """A function of a module that asks what a test puts in place of a socket or poller.

    What is compiled asks the kernel instead; so the one in Python is taken for such an object.
    """
    python = getattr(loaded(f"{name}_in_python", NATIVE / f"{name}.py"), function)
    usual = getattr(importlib.import_module(f"rproxy.native.{name}"), function)
    return lambda first, *rest: (python if isinstance(first, stand_in) else usual)(first, *rest)


def in_use(name: str) -> ModuleType | None:
    """The compiled module if that is what Python finds."""
    module = importlib.import_module(f"rproxy.native.{name}")
    return module if str(module.__file__).endswith(SUFFIX) else None


def built(name: str, folder: Path) -> Path:
    """A compiled module, made in a folder; a skip where that cannot be, or a failure where CI is set."""
    if find_spec("Cython") is None or find_spec("setuptools") is None:
        lacking("Cython and setuptools")
    if shutil.which(os.environ.get("CC") or sysconfig.get_config_var("CC").split()[0]) is None:
        lacking("C compiler")
    source = shutil.copy(NATIVE / f"{name}.pyx", folder)
    words = [sys.executable, "-m", "Cython.Build.Cythonize", "--inplace", "--quiet", source]
    # What is preloaded for this process is not for the compiler's.
    clean = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    clean.setdefault("CFLAGS", "-O1 -g0")  # half the time
    done = subprocess.run(
        words, cwd=folder, env=clean, capture_output=True, text=True, timeout=LONGEST, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / f"{name}{SUFFIX}"


def lacking(what: str) -> None:
    said = f"nothing is compiled here, and there is no {what} to do it"
    if os.environ.get("CI"):
        pytest.fail(said)
    pytest.skip(said)


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gives, with its type; or the type of what it raises."""
    try:
        gives = call(*arguments)
    except Exception as problem:
        return "raises", type(problem)
    return type(gives), gives


def told(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gives, or the type of what it raises; of `OSError`, that and the number."""
    try:
        return call(*arguments)
    except OSError as problem:
        return type(problem), problem.errno
    except Exception as problem:
        return type(problem)
