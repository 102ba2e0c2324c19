"""A built wheel, installed into an empty environment without network, gives the plugin and the command."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from rproxy import __version__

ROOT = Path(__file__).parents[1]
PATIENCE = 120
"""Seconds that a step may take; all together take about five."""


def run(*words, cwd, **more):
    """A program that knows nothing of this checkout, and all that it wrote; `more` is its environment."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [*map(str, words)], cwd=cwd, env=clean | more, stdin=subprocess.DEVNULL, timeout=PATIENCE,
        check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout


BUILD = (sys.executable, "-m", "build", "--wheel", "--no-isolation")


def successful(*words, cwd, **more):
    status, said = run(*words, cwd=cwd, **more)
    assert status == 0, said
    return said


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    successful(*BUILD, "--outdir", folder, ROOT, cwd=folder, RPROXY_PURE="1")
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def scratch(wheel, tmp_path_factory):
    """The programs of an environment with the wheel, and our dependencies beside it."""
    folder = tmp_path_factory.mktemp("scratch")
    venv.create(folder / "venv", symlinks=True)
    programs = folder / "venv" / "bin"
    install = ("install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", wheel)
    successful(sys.executable, "-m", "pip", "--python", programs / "python", *install, cwd=folder)
    (packages,) = (folder / "venv" / "lib").glob("python3*/site-packages")
    # After pip, which would otherwise find this checkout's own installation and be content with it.
    (packages / "dependencies.pth").write_text(
        "".join(f"{sysconfig.get_path(kind)}\n" for kind in ("purelib", "platlib"))
    )
    return programs


@pytest.fixture(scope="module")
def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_the_wheel_leaves_twisted_and_its_plugins_folder_what_they_are(contents):
    outside = {
        name for name in contents if not name.startswith(("rproxy/", f"rproxy-{__version__}.dist-info/"))
    }
    assert outside == {"twisted/plugins/rproxy_plugin.py"}


def test_the_wheel_has_the_types_the_licence_and_every_module(contents):
    assert "rproxy/py.typed" in contents
    assert any(name.endswith("/licenses/LICENSE") for name in contents)
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "rproxy").rglob("*.py")}
    assert ours <= set(contents)


def test_the_wheel_says_what_it_needs(contents):
    (text,) = (text for name, text in contents.items() if name.endswith("/METADATA"))
    metadata = Parser().parsestr(text)
    assert metadata["Version"] == __version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert any(line.startswith("twisted[tls]") for line in needed)
    assert not any("pytest" in line for line in needed)


def test_where_no_compiler_works_the_wheel_is_pure_python(tmp_path):
    said = successful(*BUILD, "--outdir", tmp_path, ROOT, cwd=tmp_path, CC="/bin/false")
    assert "is not compiled" in said
    (built,) = tmp_path.glob("*.whl")
    assert built.name.endswith("-py3-none-any.whl")


def test_no_compiled_module_is_older_than_its_source():
    """Python prefers it, so that a change of the source would have no effect: `make` builds it anew."""
    for compiled in (ROOT / "rproxy").rglob("*.so"):
        source = compiled.with_name(compiled.name.partition(".")[0] + ".py")
        if source.exists():
            assert compiled.stat().st_mtime >= source.stat().st_mtime, source


def test_twistd_lists_the_installed_plugin_wherever_it_is_started(scratch, tmp_path):
    twistd = (scratch / "python", "-c", "from twisted.scripts.twistd import run; run()")
    assert "Reverse proxy and protocol router" in successful(*twistd, "--help", cwd=tmp_path)
    assert "--hosts" in successful(*twistd, "rproxy", "--help", cwd=tmp_path)


def test_the_installed_code_is_the_wheels_and_not_the_checkouts(scratch, tmp_path):
    where = successful(scratch / "python", "-c", "import rproxy; print(rproxy.__file__)", cwd=tmp_path)
    assert where.startswith(str(scratch.parent))


def test_the_installed_command_works(scratch, tmp_path):
    assert (
        successful(scratch / "rproxy", "--version", cwd=tmp_path) == f"rproxy {__version__} (pure Python)\n"
    )
    assert "no problems" in successful(
        scratch / "rproxy", "check", ROOT / "config-example.toml", cwd=tmp_path
    )


def test_the_installed_endpoints_are_found_by_twisted(scratch, tmp_path):
    code = (
        "from twisted.internet.endpoints import clientFromString, serverFromString\n"
        "print(type(serverFromString(None, 'acceptproxy:tcp:1')).__name__)\n"
        "print(type(clientFromString(None, 'sendproxy:tcp:127.0.0.1:1')).__name__)\n"
    )
    said = successful(scratch / "python", "-c", code, cwd=tmp_path)
    assert said.split() == ["AcceptProxyEndpoint", "SendProxyEndpoint"]


def test_a_broken_config_makes_the_installed_command_end_with_1_and_without_a_traceback(scratch, tmp_path):
    (tmp_path / "broken.toml").write_text("listen_port_tls = 'x'\n")
    for verb in (["check", "broken.toml"], ["run", "--config", "broken.toml"]):
        status, said = run(scratch / "rproxy", *verb, cwd=tmp_path)
        assert status == 1
        assert "broken.toml:1:" in said
        assert "Traceback" not in said


@pytest.mark.parametrize(
    ("lacking", "advice"),
    [("ensurepip", "apt install python3-venv"), ("version_info", "Python 3.11 or newer")],
)
def test_make_says_what_is_missing_before_it_makes_anything(lacking, advice, tmp_path):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml", "hatch_build.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\ncase "$2" in *{lacking}*) exit 1;; esac\n')
    python.chmod(0o755)
    status, said = run("make", f"PYTHON={python}", "run", cwd=tmp_path)
    assert status != 0
    assert advice in said
    assert not (tmp_path / ".venv").exists()
