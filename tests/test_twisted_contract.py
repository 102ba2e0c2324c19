"""Twisted's own tests of reactors and transports, and some of programs on top of them, run on ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import rproxy.transports

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120
"""Seconds for one module; the longest takes five."""

REACTOR = {
    "internet.test.test_core": 14,
    "internet.test.test_fdset": 7,
    "internet.test.test_filedescriptor": 4,
    "internet.test.test_inotify": 26,
    "internet.test.test_posixbase": 12,
    "internet.test.test_process": 45,
    "internet.test.test_sigchld": 4,
    "internet.test.test_socket": 8,
    "internet.test.test_tcp": 135,
    "internet.test.test_threads": 10,
    "internet.test.test_time": 2,
    "internet.test.test_tls": 20,
    "internet.test.test_udp": 34,
    "internet.test.test_unix": 34,
}
"""Those that build a reactor for each test; and how many tests pass at least, or they are skipped."""
PROGRAMS = {
    "protocols.test.test_tls": 55,
    "spread.test.test_pb": 46,
    "test.test_amp": 139,
    "test.test_internet": 63,
    "test.test_policies": 38,
    "test.test_ssl": 17,
    "test.test_tcp": 35,
    "test.test_threads": 15,
    "test.test_udp": 26,
    "test.test_unix": 10,
    "web.test.test_webclient": 45,
    "web.test.test_wsgi": 100,
    "web.test.test_xmlrpc": 66,
}
"""Those that run on the program's reactor."""

NO_CONTEXT = "an event costs too much with a logging context around it, see ADR 8"
NO_ROOM = (
    "a port without file descriptors waits and serves its queue later, where Twisted's closes what is in it"
)
NOT_TOLD = "epoll tells nothing of what was closed; Twisted leaves it out for its own epoll reactor, too"
EAGER = "the socket takes this little at once, so that no queue comes to be, and its limit is not a program's"
NO_DELAY = (
    "TCP_NODELAY is on from the start: what is written goes out at once and must not wait for an answer"
)
OUR_WORDS = "asks for Twisted's words in the log; test_descriptors.py has the same with ours"
NOBODY = "the Python that runs it may be in a folder that other users cannot read"
LEFT_OUT = {
    "internet.test.connectionmixins.ConnectionTestsMixin.test_logPrefix": NO_CONTEXT,
    "internet.test.test_fdset.ReactorFDSetTestsBuilder.test_lostFileDescriptor": NOT_TOLD,
    "internet.test.test_process.ProcessTestsBuilderBase.test_changeUID": NOBODY,
    "internet.test.test_tcp.TCPFDPortTestsBuilder.test_closePeerOnEMFILE": NO_ROOM,
    "internet.test.test_tcp.TCPPortTestsBuilder.test_closePeerOnEMFILE": NO_ROOM,
    "internet.test.test_tcp.WriteSequenceTestsMixin.test_streamingProducer": EAGER,
    "internet.test.test_tls.TLSPortTestsBuilder.test_closePeerOnEMFILE": NO_ROOM,
    "internet.test.test_udp.UDPPortTestsMixin.test_logPrefix": NO_CONTEXT,
    "internet.test.test_unix.UNIXTestsBuilder.test_avoidLeakingFileDescriptors": OUR_WORDS,
    "test.test_tcp.LoopbackTests.test_tcpNoDelay": NO_DELAY,
}
"""What is not run, and why."""

COMPILED = not str(rproxy.transports.__file__).endswith(".py")


@pytest.fixture(scope="session", params=["in use", "pure"] if COMPILED else ["in use"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Python finds rproxy: as it is installed, and with nothing compiled."""
    if request.param == "in use":
        return ROOT
    copy = tmp_path_factory.mktemp("pure")
    leave = shutil.ignore_patterns("*.so", "__pycache__")
    for folder in ("rproxy", "twisted"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=leave)
    return copy


@pytest.fixture(autouse=True)
def hamcrest() -> None:
    """What Twisted's tests of TCP import; without it a skip, or a failure where CI is set."""
    if find_spec("hamcrest") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("PyHamcrest is not installed")


def ran(module: str, path: Path, tmp_path: Path) -> dict[str, Any]:
    """How a module's tests went."""
    result = tmp_path / "result.json"
    words = [sys.executable, str(ROOT / "tests" / "twisted_suite.py"), f"twisted.{module}", str(result)]
    said = tmp_path / "said"
    with said.open("wb") as out:
        subprocess.run(
            words, check=False, cwd=tmp_path, timeout=PATIENCE, stdout=out, stderr=out,
            input=json.dumps({f"twisted.{name}": why for name, why in LEFT_OUT.items()}).encode(),
            env={**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
    assert result.exists(), said.read_text(errors="replace")[-3000:]
    told: dict[str, Any] = json.loads(result.read_text())
    return told


@pytest.mark.parametrize("module", [*REACTOR, *PROGRAMS])
def test_twisteds_own_tests_pass(module: str, path: Path, tmp_path: Path) -> None:
    told = ran(module, path, tmp_path)
    if told["bad"]:  # some of them take a port that they saw free, which another program may have by then
        told = ran(module, path, tmp_path)
    assert not told["bad"], "\n\n".join(f"{name}\n{trace[-2000:]}" for name, trace in told["bad"])
    assert told["passed"] >= (REACTOR | PROGRAMS)[module]
    assert told["ran"] == {"rproxy": str(path / "rproxy"), "reactor": "ProxyReactor"}
