"""`rproxy certs`: what it prints, and the status it ends with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rproxy import command_certs
from rproxy.command import main
from rproxy.errors import UserError
from tests.test_command_admin import Proxy
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
        "a\n    names         a.example\n    listens on    tcp:8443:interface=0.0.0.0\n"
        "    source        files\n    issuer        a.example\n"
    )
    assert second.startswith("b\n    names         b.example\n    listens on    ")
    assert "    source        acme\n    issuer        -\n" in second
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


def test_it_needs_a_file(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_certs, "CONFIG", "/nowhere/rproxy.toml")
    assert main(["certs"]) == 2
    assert "rproxy certs FILE" in capsys.readouterr().err


def test_without_one_it_is_the_usual_one(
    file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_certs, "CONFIG", file)
    assert main(["certs"]) == 0
    assert capsys.readouterr().out.startswith("a\n    names         a.example\n")


SERVICE = """
[l4.db]
listen = ":5000"
upstream = [{ location = "127.0.0.1:9" }]
tls = { tls_cert_path = "a.pem", tls_cert_key_path = "a.key" }
"""


def test_services_are_listed_with_apps(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    with open(file, "a") as config:
        config.write(SERVICE)
    assert main(["certs", "--json", file]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["app"], each["listeners"], each["served"]) for each in found] == [
        ("a", ["tcp:8443:interface=0.0.0.0"], False),
        ("b", ["tcp:8443:interface=0.0.0.0"], False),
        ("l4.db", ["tcp:5000"], False),
    ]
    assert main(["certs", file]) == 0
    assert "l4.db\n    names         any\n    good for      a.example\n" in capsys.readouterr().out


# -- A proxy that runs --------------------------------------------------------------------------------------


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    made = Proxy(tmp_path / "s")
    yield made
    made.end()


def served(**more: object) -> dict[str, object]:
    return {
        "app": "a",
        "listeners": ["tcp:443"],
        "names": ["a.example"],
        "good_for": ["a.example"],
        "source": "files",
        "authority": None,
        "issuer": "somebody in memory",
        "not_after": "2036-01-01T00:00:00+00:00",
        "days_left": 3327,
        "next_attempt": None,
        "problem": None,
        "served": True,
    } | more


def with_socket(file: str) -> str:
    path = Path(file)
    path.write_text('admin_socket = "s"\n' + path.read_text())
    return file


def test_a_running_proxy_is_asked(proxy: Proxy, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    proxy.says({"certificates": [served()]})
    for words in (("--socket", str(proxy.path)), ("-c", with_socket(file))):
        assert main(["certs", *words]) == 0
        seen = capsys.readouterr()
        assert "    issuer        somebody in memory\n    not after     2036-01-01 00:00 UTC, in " in seen.out
        assert seen.err == ""
        assert main(["certs", "--json", *words]) == 0
        assert json.loads(capsys.readouterr().out) == [served()]
    assert proxy.asked == [{"ask": "certs"}] * 4


def test_where_none_answers_the_files_are_read_and_that_is_said(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["certs", "--json", with_socket(file)]) == 0
    seen = capsys.readouterr()
    assert [each["served"] for each in json.loads(seen.out)] == [False, False]
    assert seen.err.startswith("the proxy was not asked, these are the files: no proxy listens on ")


def test_the_files_may_be_preferred(proxy: Proxy, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certs", "--files", with_socket(file)]) == 0
    seen = capsys.readouterr()
    assert (proxy.asked, seen.err) == ([], "")
    assert "issuer        a.example\n" in seen.out


def test_a_proxy_that_knows_no_such_question_leads_to_the_files(
    proxy: Proxy, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.says({"error": "ask is one of ban, status"})
    assert main(["certs", with_socket(file)]) == 0
    assert "these are the files: ask is one of ban, status\n" in capsys.readouterr().err
    assert main(["certs", "--socket", str(proxy.path)]) == 1
    assert capsys.readouterr().err == "rproxy certs: ask is one of ban, status\n"
    assert main(["certs", "--json", "--socket", str(proxy.path)]) == 1
    assert json.loads(capsys.readouterr().err) == {"error": "ask is one of ban, status"}


@pytest.mark.parametrize("answer", [{}, {"certificates": [{"app": "a"}]}, {"certificates": 5}])
def test_a_proxy_of_another_version_is_told(proxy: Proxy, answer: object) -> None:
    proxy.says(answer)
    with pytest.raises(UserError, match="of another version"):
        main(["certs", "--socket", str(proxy.path)])


def test_a_socket_that_nobody_listens_on_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does it run"):
        main(["certs", "--socket", str(tmp_path / "nobody")])
