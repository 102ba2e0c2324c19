"""Compiles the data path with mypyc while a wheel is built; where that fails the wheel is pure Python.

Called by hatchling for `pip install .` (the compiled modules go into the wheel) and `pip install
--editable .` (they go beside their sources, where Python prefers them). RPROXY_PURE=1 leaves it
out. RPROXY_COMPILED=folder keeps what was compiled there, for the next build of the same sources with the
same tools; where nothing could be compiled, its file `failed` says why. The Makefile sets it. Run as a
program it prints what is compiled, for the Makefile. Why: docs/adr/0011-compiled-data-path.md
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from importlib.metadata import version as version_of
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Any

COMPILED = (
    "wire/address",
    "wire/message",
    "wire/hostname",
    "wire/clienthello",
    "wire/http1",
    "wire/http1_head",
    "wire/http1_fields",
    "wire/http1_body",
    "wire/http1_write",
    "wire/http2_events",
    "wire/http2_frames",
    "wire/http2_settings",
    "wire/http2_gate",
    "wire/http2_tables",
    "wire/http2_decode",
    "wire/http2_encode",
    "wire/http2_head",
    "wire/http2_speaker",
    "wire/http2_connection",
    "wire/http2",
    "wire/http2_client",
    "wire/http2_answers",
    "wire/http2_asks",
    "wire/websocket",
    "interfaces",
    "watcher",
    "deadlines",
    "transports",
    "reactor",
    "splice",
    "parting",
    "openssl",
    "wrapping",
    "tls",
    "policy/balance",
    "policy/bantable",
    "policy/bucket",
    "policy/forwarding",
    "policy/paths",
    "policy/routes",
    "upstream/peer",
    "upstream/outbound",
    "upstream/connect",
    "upstream/asking",
    "upstream/http_client",
    "upstream/http2_client",
    "upstream/http2_again",
    "upstream/http2_alive",
    "upstream/http2_line",
    "upstream/http2_pool",
    "upstream/http2_requests",
    "upstream/http2_stream",
    "upstream/http2_consumer",
    "upstream/http2_upload",
    "upstream/http2_tunnel",
    "relay",
    "sites",
    "exchange",
    "downstream/peek",
    "downstream/admission",
    "downstream/http_server",
    "downstream/http_watch",
    "downstream/http_writer",
    "downstream/http_factory",
    "downstream/refusals",
    "downstream/tunnel",
    "downstream/http2_server",
    "downstream/http2_stream",
    "downstream/http2_turns",
    "downstream/http2_watch",
    "downstream/mutual",
    "services/accepting",
    "services/listeners",
    "ports",
    "services/counts",
    "services/limits",
    "services/buckets",
    "services/ratelimits",
    "services/bancheck",
    "services/gates",
    "services/connections",
    "services/answers",
    "services/lines",
    "services/requestlog",
    "services/access",
    "services/userlog",
    "services/routing",
)
"""The modules that run for every request; the others would gain nothing."""
TWINS = (
    "native/events",
    "native/fields",
    "native/heads",
    "native/hello",
    "native/lines",
    "native/sockets",
    "native/tlsbytes",
)
"""Those that have a twin in Cython, which replaces them (ADR 17)."""
FLAGS = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
OPTIONS = ["-O3", "-fvisibility=hidden", "-fno-plt", "-Wno-error"]
"""For the C compiler. Functions that nothing outside can replace are called without the linker's table and
can be inlined; those of Python's library are called by their address. mypyc asks for -Werror, but a new
compiler's new warning is no reason to compile nothing."""
FAILING = re.compile(
    r"^void (?:CPyError_OutOfMemory|CPy_(?:Raise|AddTraceback|AttributeError|TypeError\w*))\([^;]*", re.M
)
"""Functions of mypyc's that are called for exceptions, as its header declares them."""
RAISING = re.compile(r"^static void __Pyx_(?:AddTraceback|RaiseArgtupleInvalid)\([^;{]*\)(?=;)", re.M)
"""The same of Cython's, which are in each of its files."""
TOOLS = ("mypy", "cython", "setuptools", "twisted")
"""What is compiled depends on these too: mypyc comes with mypy, and reads the types of Twisted's classes."""


def sources() -> list[str]:
    """Their files, relative to the project's root."""
    return [f"rproxy/{module}.py" for module in COMPILED]


def twins() -> list[str]:
    """The sources in Cython, relative to the project's root."""
    return [f"rproxy/{module}.pyx" for module in TWINS]


def compiled(scratch: Path) -> dict[str, str]:
    """Compile into `scratch`: the files made, and where they belong in the wheel."""
    from Cython.Build import cythonize
    from mypyc.build import mypycify
    from setuptools import Extension

    _build([_trial(scratch)], scratch / "trial")
    flags = [*FLAGS, f"--cache-dir={scratch / 'cache'}"]
    modules = mypycify(
        [*flags, *sources()],
        opt_level="3",
        debug_level="0",
        multi_file=True,  # so that every core has something to compile
        group_name="rproxy.compiled",
        target_dir=str(scratch / "c"),
    )
    for module in modules:  # mypyc looks for its headers beside the folder of its group's package
        module.include_dirs.append(str(scratch / "c" / "rproxy"))
    written = [Extension(path[:-4].replace("/", "."), [path]) for path in twins()]
    modules += cythonize(written, build_dir=str(scratch / "c"), quiet=True)
    failing = _failing(scratch)
    for module in modules:
        module.extra_compile_args = [*module.extra_compile_args, "-include", failing]  # the list is shared
    _build(modules, scratch)
    return _made(scratch / "lib")


def kept(folder: Path, scratch: Path) -> dict[str, str]:
    """What `compiled` gives, from `folder` if it is there already; what it has of other sources goes."""
    place = folder / f"rproxy-{fingerprint()}"
    if not place.exists():
        compiled(scratch)
        for old in folder.glob("rproxy-*"):
            shutil.rmtree(old)
        unfinished = shutil.copytree(scratch / "lib", folder / f"rproxy-new-{os.getpid()}")
        unfinished.rename(place)
    return _made(place)


def fingerprint() -> str:
    """Of everything that decides what is compiled: sources, tools, interpreter, environment."""
    paths = sorted(path for path in Path("rproxy").rglob("*") if path.suffix in (".py", ".pyx", ".pxd"))
    octets = hashlib.sha256(Path(__file__).read_bytes())
    for path in paths:
        octets.update(f"{path} {path.stat().st_size} ".encode() + path.read_bytes())
    tools = [f"{tool} {version_of(tool)}" for tool in TOOLS]
    ours = [os.environ.get(name, "") for name in ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED")]
    octets.update(repr((sys.version, sysconfig.get_platform(), tools, ours)).encode())
    return octets.hexdigest()[:16]


def _trial(scratch: Path) -> object:
    """A second shows whether there is a compiler, and what it needs of Python; mypyc takes many before."""
    from setuptools import Extension

    path = scratch / "trial.c"
    path.write_text("#include <Python.h>\nPyMODINIT_FUNC PyInit_trial(void) { return NULL; }\n")
    return Extension("trial", [str(path)])


def _failing(scratch: Path) -> str:
    """A header that tells the C compiler what is for exceptions only.

    All that leads there goes to a place of its own, and what runs lies closer together: a quarter less code
    to go through the processor's caches.
    """
    from mypyc.build import include_dir

    declared = FAILING.findall(Path(include_dir(), "CPy.h").read_text())
    for twin in sorted((scratch / "c" / "rproxy" / "native").glob("*.c"))[:1]:
        declared += RAISING.findall(twin.read_text())
    path = scratch / "failing.h"
    lines = ["#include <Python.h>", *(f"{each} __attribute__((cold));" for each in declared)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def _build(modules: list, scratch: Path) -> None:  # type: ignore[type-arg]
    """C to modules, on every core: setuptools would compile one file after the other."""
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    class Everywhere(build_ext):
        def build_extensions(self) -> None:
            # Where this interpreter's own library is means nothing on another machine, and nothing here.
            linker = self.compiler.linker_so
            self.compiler.linker_so = [word for word in linker if not word.startswith("-Wl,-rpath")]
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
                made = [
                    [pool.submit(self._object, it, path) for path in it.sources] for it in self.extensions
                ]
                for it, objects in zip(self.extensions, made, strict=True):
                    it.sources, it.extra_objects = [], [each.result() for each in objects]
            super().build_extensions()

        def _object(self, it: Any, path: str) -> str:
            (made,) = self.compiler.compile(
                [path],
                output_dir=self.build_temp,
                macros=it.define_macros,
                include_dirs=[*self.include_dirs, *it.include_dirs],
                extra_postargs=[*it.extra_compile_args, *OPTIONS],
            )
            return str(made)

    command = Everywhere(Distribution({"name": "rproxy", "ext_modules": modules}))
    command.build_lib, command.build_temp = str(scratch / "lib"), str(scratch / "temp")
    command.ensure_finalized()
    command.run()


def _made(folder: Path) -> dict[str, str]:
    """The compiled modules in `folder`, and where they belong in the wheel."""
    found = folder.rglob("*" + sysconfig.get_config_var("EXT_SUFFIX"))
    return {str(path): str(path.relative_to(folder)) for path in found}


if __name__ == "__main__":
    sys.stdout.write(" ".join(sources() + twins()) + "\n")
else:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface

    class CompileHook(BuildHookInterface):  # type: ignore[type-arg]
        """What hatchling calls."""

        def initialize(self, version: str, build_data: dict) -> None:  # type: ignore[type-arg]
            """Before a wheel is put together."""
            self._scratch = TemporaryDirectory(prefix="rproxy-build-")
            root = Path(self.root)
            if version == "editable":
                _remove(root)
            self._report("")
            if self.target_name != "wheel" or os.environ.get("RPROXY_PURE"):
                return
            try:
                with chdir(root):
                    made = self._compiled(Path(self._scratch.name))
            except (Exception, SystemExit) as problem:  # mypyc and setuptools exit for mistakes of theirs
                self.app.display_warning(f"rproxy is not compiled, and slower for it: {problem}")
                self._report(shorten(str(problem), 120) + "\n")
                return
            build_data["pure_python"], build_data["infer_tag"] = False, True
            if version == "editable":
                for path, place in made.items():
                    _replace(root / place, Path(path).read_bytes())
            else:
                build_data["force_include"].update(made)

        def finalize(self, version: str, build_data: dict, artifact_path: str) -> None:  # type: ignore[type-arg]
            """When it has been."""
            self._scratch.cleanup()

        def _compiled(self, scratch: Path) -> dict[str, str]:
            folder = os.environ.get("RPROXY_COMPILED")
            return kept(Path(folder).resolve(), scratch) if folder else compiled(scratch)

        def _report(self, problem: str) -> None:
            """For the Makefile, since `pip install --quiet` shows no warning."""
            if folder := os.environ.get("RPROXY_COMPILED"):
                Path(folder).mkdir(parents=True, exist_ok=True)
                Path(folder, "failed").write_text(problem)

    def _replace(path: Path, octets: bytes) -> None:
        """Write a file under another name first: a process may have mapped the one that is there."""
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.write_bytes(octets)
        new.replace(path)

    def _remove(root: Path) -> None:
        """Compiled modules of an earlier editable install, which would hide newer sources."""
        for path in (root / "rproxy").rglob("*.so"):
            path.unlink()
