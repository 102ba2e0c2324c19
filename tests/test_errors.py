"""Every refusal knows its answer; every mistake of a person prints as text and ends with status 1."""

import subprocess
import sys

import pytest

from rproxy import errors
from rproxy.errors import (
    ConfigError,
    NoPeer,
    PeerTimeout,
    PeerUnreachable,
    Problem,
    Refusal,
    StartError,
    UserError,
)

# The refusals of a connection; those of requests are tested where they are raised.
ANSWERS = {
    "BadHello": ("bad_hello", 50, None, False),
    "HelloTooLarge": ("hello_too_large", 22, None, False),
    "NotTLS": ("not_tls", 10, 400, False),
    "UnknownName": ("unknown_name", 112, 404, False),
    "NoCommonProtocol": ("no_common_alpn", 120, None, False),
    "NotAuthorised": ("not_authorised", 49, 403, False),
    "TooMany": ("too_many", None, 429, False),
    "RateLimited": ("rate_limited", None, 429, False),
    "Banned": ("banned", None, 403, False),
    "Denied": ("denied", 49, 403, False),
    "TooSlow": ("too_slow", 90, 408, False),
    "BadProxyHeader": ("bad_proxy_header", None, None, False),
    "PeerUnreachable": ("peer_unreachable", 80, 502, True),
    "PeerTimeout": ("peer_timeout", 80, 504, True),
    "NoPeer": ("no_peer", 80, 503, True),
}


def refusals(kind: type[Refusal] = Refusal) -> list[type[Refusal]]:
    found = [sub for direct in kind.__subclasses__() for sub in [direct, *refusals(direct)]]
    return [sub for sub in found if sub.__module__ == errors.__name__]


def test_each_refusal_has_its_row() -> None:
    rows = {kind.__name__: (kind.reason, kind.alert, kind.status, kind.other_peer) for kind in refusals()}
    assert {name: rows[name] for name in ANSWERS} == ANSWERS


def test_every_refusal_has_an_answer_that_exists() -> None:
    for kind in refusals():
        assert kind.alert is None or 0 <= kind.alert <= 255
        assert kind.status is None or 200 <= kind.status <= 599


def test_reasons_are_words_for_the_log() -> None:
    reasons = [kind.reason for kind in refusals()]
    assert len(set(reasons)) == len(reasons)
    assert all(reason.isidentifier() and reason.islower() for reason in reasons)


def test_an_unreachable_peer_keeps_the_errno() -> None:
    assert PeerUnreachable("gone", 111).code == 111
    assert PeerUnreachable("gone").code == 0
    assert isinstance(PeerTimeout("late"), PeerUnreachable)
    assert NoPeer("gone", 111).code == 111


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("f.toml", 0, 0, "", "is empty"), "f.toml: is empty"),
        (Problem("f.toml", 3, 5, "apps.a", "no such key"), "f.toml:3:5: apps.a: no such key"),
        (
            Problem("f.toml", 3, 3, "", "wrong", "do this", "\tx = 1"),
            "f.toml:3:3: wrong\n    \tx = 1\n    \t ^\n    do this",
        ),
    ],
)
def test_a_problem_prints_its_place(problem: Problem, text: str) -> None:
    assert str(problem) == text


def test_a_config_error_lists_every_problem() -> None:
    error = ConfigError([Problem("f", 1, 1, "", "one"), Problem("f", 2, 1, "", "two")])
    assert str(error) == "f:1:1: one\nf:2:1: two"
    assert isinstance(error, UserError)
    assert isinstance(error, Exception)


def test_a_user_error_that_nobody_catches_is_text_and_status_1() -> None:
    code = "from rproxy.errors import StartError; raise StartError('port 1: taken')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert (ended.returncode, ended.stderr.strip()) == (1, "port 1: taken")
    assert isinstance(StartError("x"), SystemExit)
