"""Limits that do not fit the rest of the file, each with its sentence."""

from __future__ import annotations

import pytest

from rproxy.config.limitchecks import MOST_JAILS
from rproxy.config.load import parse
from rproxy.errors import ConfigError

APP = '[apps.%s]\nserver_name = "%s.example"\n%s\n'
JAIL = "[[jail]]\nmatch = 'status 401'\nrate = '1/m'\nban = '1h'\n"
CLEAR = "reverse_proxy = { location = 'a' }"
STREAM = "passthrough = { upstream = [{ location = 'a' }] }"
RATE = "rate_limit.max_connections = 2"


def found(*parts: str) -> list[tuple[str, str, str]]:
    """Key, message and hint of every problem."""
    text = "\n".join(["listen_port = 80", "listen_port_tls = 443", *parts])
    try:
        parse(text, "x.toml", rows=())
    except ConfigError as error:
        return [(problem.key, problem.message, problem.hint) for problem in error.problems]
    return []


@pytest.mark.parametrize(
    "parts",
    [
        (APP % ("a", "a", CLEAR), JAIL + "app = 'a'"),
        (APP % ("a", "a", f"{STREAM}\n{RATE}"),),
        (APP % ("a", "a", f"tls.self_signed = true\n{CLEAR}\n{RATE}"),),
        (APP % ("a", "a", STREAM), *[JAIL] * MOST_JAILS),
        (
            APP % ("a", "a", STREAM),
            "[l4.db]\nlisten = ':1'\nupstream = [{ location = 'a:1' }]",
            JAIL + "app = ['a', 'db']",
        ),
    ],
)
def test_what_goes_together_is_accepted(parts: tuple[str, ...]) -> None:
    assert found(*parts) == []


def test_a_jail_for_an_app_that_is_not_there() -> None:
    assert found(APP % ("site", "a", STREAM), JAIL + "app = ['site', 'sit']") == [
        ("jail[0].app[1]", 'there is no app "sit"', 'did you mean "site"?')
    ]


def test_too_many_jails() -> None:
    (problem,) = found(APP % ("a", "a", STREAM), *[JAIL] * (MOST_JAILS + 1))
    assert problem == ("jail", f"more than {MOST_JAILS} jails", "put several statuses into one match")


def test_connections_of_an_app_that_has_none_of_its_own() -> None:
    (problem,) = found(APP % ("a", "a", f"{CLEAR}\n{RATE}"))
    assert problem[0] == "apps.a.rate_limit"
    assert "none come to this app" in problem[1]


def test_requests_of_an_app_that_has_none() -> None:
    limit = "request_limit = { capacity = 1, fill_rate = 1 }"
    (problem,) = found(APP % ("a", "a", f"{STREAM}\n{limit}"))
    assert problem[:2] == (
        "apps.a.request_limit",
        "request_limit is about requests, and this app has no reverse_proxy",
    )
