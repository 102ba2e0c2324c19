"""A built wheel, installed into an empty environment without network, gives the plugin and the command.

A pure wheel is built here. `make wheel` names the compiled one that it has made in RPROXY_WHEEL, and the same
is asked of that.
"""

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from rproxy import __version__
from tests.e2e.programs import Programs, free_port
from tests.e2e.streams import all_of

ROOT = Path(__file__).parents[1]
PATIENCE = 120
"""Seconds that a step may take; all together take about five."""
RELEASE = os.environ.get("RPROXY_WHEEL")
"""The path of a compiled wheel, from the project's root."""


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


@pytest.fixture(scope="module", params=["pure Python", *(["compiled"] if RELEASE else [])])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def wheel(kind, tmp_path_factory):
    if kind == "compiled":
        return ROOT / RELEASE
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
        files = [file for file in archive.infolist() if not file.is_dir()]
        return {file.filename: archive.read(file).decode(errors="replace") for file in files}


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


def test_the_wheel_has_every_compiled_module_or_none(kind, contents):
    sources = successful(sys.executable, ROOT / "hatch_build.py", cwd=ROOT).split()
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    wanted = {source.rpartition(".")[0] + suffix for source in sources} | {f"rproxy/compiled__mypyc{suffix}"}
    there = {name for name in contents if name.endswith(".so")}
    assert there == (wanted if kind == "compiled" else set())


def test_the_wheel_says_where_it_runs(kind, wheel, tmp_path):
    if kind == "pure Python":
        assert wheel.name.endswith("-py3-none-any.whl")
        return
    tag = f"-cp{sys.version_info.major}{sys.version_info.minor}-"
    assert tag in wheel.name
    assert "manylinux_2_" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        module = archive.extract(next(name for name in archive.namelist() if "__mypyc" in name), tmp_path)
    linked = successful("readelf", "--dynamic", module, cwd=tmp_path)
    assert "libc.so" in linked
    assert "PATH" not in linked, "it would look for libraries where this machine has its interpreter"


def test_where_no_compiler_works_the_wheel_is_pure_python(tmp_path):
    said = successful(*BUILD, "--outdir", tmp_path, ROOT, cwd=tmp_path, CC="/bin/false", RPROXY_COMPILED="")
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


def test_the_installed_command_works(kind, scratch, tmp_path):
    assert successful(scratch / "rproxy", "--version", cwd=tmp_path) == f"rproxy {__version__} ({kind})\n"
    assert "no problems" in successful(
        scratch / "rproxy", "check", ROOT / "config-example.toml", cwd=tmp_path
    )


def test_the_installed_command_serves(scratch, tmp_path):
    port = free_port()
    (tmp_path / "rproxy.toml").write_text(
        f'listen_address_v4 = "127.0.0.1"\nlisten_port = {port}\n[apps.demo]\nserver_name = "localhost"\n'
        'reverse_proxy = { location = "demo:" }\n'
    )
    programs = Programs(tmp_path)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    words = [scratch / "rproxy", "run", "--config", "rproxy.toml"]
    try:
        programs.start(words, "rproxy", cwd=tmp_path, env=clean).says("rproxy listens on")
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as stream:
            stream.sendall(b"GET /a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = all_of(stream).decode()
    finally:
        programs.end()
    assert answer.startswith("HTTP/1.1 200 ")
    assert "GET /a HTTP/1.1" in answer


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


@pytest.fixture
def make(tmp_path):
    """make, with the three files that an installation starts from."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml", "hatch_build.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return lambda *words, **more: run("make", *words, cwd=tmp_path, **more)


@pytest.mark.parametrize(
    ("lacking", "advice"),
    [("ensurepip", "apt install python3-venv"), ("version_info", "Python 3.11 or newer")],
)
def test_make_says_what_is_missing_before_it_makes_anything(lacking, advice, make, tmp_path):
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\ncase "$2" in *{lacking}*) exit 1;; esac\n')
    python.chmod(0o755)
    status, said = make(f"PYTHON={python}", "run")
    assert status != 0
    assert advice in said
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    ("compiler", "pure", "told"),
    [("/bin/false", "", True), ("/bin/false", "1", False)],
    ids=["broken", "left out"],
)
def test_make_says_when_it_could_not_compile_and_installs_all_the_same(compiler, pure, told, make, tmp_path):
    for name in ("rproxy", "twisted"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    venv.create(tmp_path / ".venv", symlinks=True)
    (tmp_path / ".venv/bin/pip").touch()
    here = f"{sys.executable} -m pip --python .venv/bin/python install --quiet --disable-pip-version-check"
    alone = f"PIP={here} --no-deps --no-index --no-build-isolation"
    tools = {"PYTHONPATH": sysconfig.get_path("purelib"), "CC": compiler, "RPROXY_PURE": pure}
    status, said = make(alone, "PLUGINS=true", ".venv/installed", **tools)
    assert status == 0, said
    assert (tmp_path / ".venv/installed").exists()
    assert ("is not compiled and takes several times the CPU" in said) == told
    assert ("'/bin/false'" in said) == told
