"""What is allowed and hardly meant is told with its place, in the log and to whoever asks."""

from pathlib import Path

import pytest
from twisted.logger import LogLevel, capturedLogs

from rproxy.config.load import examine, load

FILES = "tls_cert_path = 'c', tls_cert_key_path = 'k'"
SERVED = "reverse_proxy = [{ location = 'a' }]"
PASSED = "passthrough = { upstream = [{ location = 'a' }] }"
BEGIN = "listen_port_tls = 443\n[apps.site]\nserver_name = 'a.example'\n"
OLD = f"tls = {{ https_redirection = true, {FILES} }}\n{SERVED}\n"


@pytest.fixture
def written(tmp_path: Path):
    def write(text: str) -> Path:
        (tmp_path / "x.toml").write_text(text)
        return tmp_path / "x.toml"

    return write


@pytest.mark.parametrize(
    ("lines", "key", "column"),
    [
        (OLD, "tls.https_redirection", 9),
        (f"https_redirection = true\ntls = {{ {FILES} }}\n{SERVED}\n", "https_redirection", 1),
        (f"https_redirection = true\n{PASSED}\n", "https_redirection", 1),
    ],
)
def test_a_redirection_where_nothing_listens_in_clear_text_is_pointed_at(written, lines, key, column):
    [concern] = examine(written(BEGIN + lines)).concerns
    assert (concern.line, concern.column, concern.key) == (4, column, f"apps.site.{key}")
    assert concern.message == "nothing listens in clear text, so nothing is redirected"


@pytest.mark.parametrize(
    "text",
    [
        "listen_port = 80\n" + BEGIN + OLD,
        "listen = ['fd:0']\n" + BEGIN + OLD,
        BEGIN + OLD.replace("true", "false"),
        BEGIN + OLD.replace("https_redirection = true, ", ""),
        BEGIN + PASSED,
    ],
)
def test_other_files_are_of_no_concern(written, text):
    with capturedLogs() as events:
        load(written(text))
    assert (events, examine(written(text)).concerns) == ([], [])


def test_a_concern_is_a_warning_in_the_log_and_no_mistake(written):
    path = written(BEGIN + OLD)
    with capturedLogs() as events:
        assert load(path) == examine(path).config
    [event] = events
    assert event["log_level"] is LogLevel.warn
    assert event["concern"].startswith(f"{path}:4:9: apps.site.tls.https_redirection: nothing listens")
