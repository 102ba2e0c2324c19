"""`rproxy certs`: what it prints, and the status it ends with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rproxy.command import main
from tests.tlspeers import make

TEXT = """\
listen_port_tls = 8443
[apps.a]
server_name = "a.example"
tls = { tls_cert_path = "a.pem", tls_cert_key_path = "a.key" }
reverse_proxy = { location = "demo:" }
[apps.b]
server_name = "b.example"
tls = { acme = true }
reverse_proxy = { location = "demo:" }
[apps.c]
server_name = "c.example"
passthrough = { upstream = [{ location = "127.0.0.1:9" }] }
[acme]
email = "a@example.org"
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    make("a.example").write(tmp_path, "a")
    (tmp_path / "rproxy.toml").write_text(TEXT)
    return str(tmp_path / "rproxy.toml")


@pytest.mark.parametrize("words", [(), ("-c",), ("--config",)])
def test_each_certificate_is_a_paragraph(
    file: str, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert main(["certs", *words, file]) == 0
    seen = capsys.readouterr()
    first, second = seen.out.split("\n\n")
    assert first.startswith(
        "a\n    names         a.example\n    source        files\n    issuer        a.example\n"
    )
    assert second.startswith("b\n    names         b.example\n    source        acme\n    issuer        -\n")
    assert second.endswith("last problem  there is no certificate yet\n")
    assert seen.err == ""


def test_programs_get_json(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certs", "--json", file]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["app"], each["source"]) for each in found] == [("a", "files"), ("b", "acme")]


def test_without_certificates_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rproxy.toml"
    path.write_text(TEXT[: TEXT.index("[apps.a]")] + TEXT[TEXT.index("[apps.c]") :])
    assert main(["certs", str(path)]) == 0
    assert capsys.readouterr().out == "no app has a certificate\n"
    assert main(["certs", "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_mistake_in_the_file_is_told_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rproxy.toml"
    path.write_text("nonsense = 1\n" + TEXT)
    assert main(["certs", str(path)]) == 1
    seen = capsys.readouterr()
    assert seen.err.startswith(f"{path}:1:1: ")
    assert seen.out == ""


def test_it_needs_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certs"]) == 2
    assert "rproxy certs FILE" in capsys.readouterr().err
