"""config-example.toml as a new user runs it, but for the ports: both answer, the demo says what arrived."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import Peer
from tests.e2e.programs import ROOT, RPROXY, Programs, free_port, run


class Example:
    """The example, running, and a curl that finds it."""

    def __init__(self, programs: Programs, curl: str) -> None:
        self.clear, self.secure, self.folder, self._curl = free_port(), free_port(), programs.folder, curl
        text = (ROOT / "config-example.toml").read_text()
        text = text.replace("listen_port = 8080", f"listen_port = {self.clear}")
        config = self.folder / "rproxy.toml"
        config.write_text(text.replace("listen_port_tls = 8443", f"listen_port_tls = {self.secure}"))
        programs.start([*RPROXY, "run", "--config", config], "example").says("rproxy listens on")

    @property
    def authority(self) -> Path:
        return self.folder / "rproxy-state" / "ca.pem"

    def get(self, url: str, *more: object) -> str:
        names = [f"{name}:{port}:127.0.0.1" for name in NAMES for port in (self.clear, self.secure)]
        resolve = [word for name in names for word in ("--resolve", name)]
        words = [self._curl, "--silent", "--include", "--noproxy", "*", "--max-time", "10", *resolve]
        return run([*words, *more, url]).stdout


NAMES = ("localhost", "demo.localhost")


@pytest.fixture
def example(programs: Programs, peer: Peer) -> Example:
    return Example(programs, peer("curl"))


def test_clear_text_is_answered(example: Example) -> None:
    answer = example.get(f"http://localhost:{example.clear}/x")
    assert answer.startswith("HTTP/1.1 200 OK")
    assert f"name      localhost:{example.clear}" in answer
    assert "client    127.0.0.1 (X-Forwarded-For)" in answer
    assert "request   GET /x HTTP/1.1" in answer


def test_tls_ends_here_with_a_certificate_that_can_be_trusted(example: Example) -> None:
    answer = example.get(f"https://localhost:{example.secure}/", "--cacert", example.authority)
    assert answer.startswith("HTTP/2 200")
    assert "protocol  clear text, after https" in answer


def test_another_name_is_passed_on_and_its_clear_text_redirected(example: Example) -> None:
    passed = example.get(f"https://demo.localhost:{example.secure}/", "--insecure")
    assert "TLSv1.3 from end to end" in passed
    moved = example.get(f"http://demo.localhost:{example.clear}/y?z")
    assert f"\nLocation: https://demo.localhost:{example.secure}/y?z\n" in moved.replace("\r", "")
