"""Compiles the data path with mypyc while a wheel is built; where that fails the wheel is pure Python.

Called by hatchling for `pip install .` (the compiled modules go into the wheel) and `pip install
--editable .` (they go beside their sources, where Python prefers them). RPROXY_PURE=1 leaves it
out. Run as a program it prints what is compiled, for the Makefile. Why: docs/adr/0011-compiled-data-path.md
"""

from __future__ import annotations

import os
import sys
import sysconfig
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory

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
    "services/listeners",
    "ports",
    "services/limits",
    "services/buckets",
    "services/ratelimits",
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
    "native/lines",
    "native/sockets",
    "native/tlsbytes",
)
"""Those that have a twin in Cython, which replaces them (ADR 17)."""
FLAGS = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]


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
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    flags = [*FLAGS, f"--cache-dir={scratch / 'cache'}"]
    modules = mypycify(
        [*flags, *sources()],
        opt_level="3",
        debug_level="0",
        group_name="rproxy.compiled",
        target_dir=str(scratch / "c"),
    )
    written = [Extension(path[:-4].replace("/", "."), [path], extra_compile_args=["-O3"]) for path in twins()]
    modules += cythonize(written, build_dir=str(scratch / "c"), quiet=True)
    command = build_ext(Distribution({"name": "rproxy", "ext_modules": modules}))
    command.build_lib, command.build_temp = str(scratch / "lib"), str(scratch / "temp")
    command.ensure_finalized()
    command.run()
    made = (scratch / "lib").rglob("*" + sysconfig.get_config_var("EXT_SUFFIX"))
    return {str(path): str(path.relative_to(scratch / "lib")) for path in made}


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
            if self.target_name != "wheel" or os.environ.get("RPROXY_PURE"):
                return
            try:
                with chdir(root):
                    made = compiled(Path(self._scratch.name))
            except (Exception, SystemExit) as problem:  # mypyc and setuptools exit for mistakes of theirs
                self.app.display_warning(f"rproxy is not compiled, and slower for it: {problem}")
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

    def _replace(path: Path, octets: bytes) -> None:
        """Write a file under another name first: a process may have mapped the one that is there."""
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.write_bytes(octets)
        new.replace(path)

    def _remove(root: Path) -> None:
        """Compiled modules of an earlier editable install, which would hide newer sources."""
        for path in (root / "rproxy").rglob("*.so"):
            path.unlink()
