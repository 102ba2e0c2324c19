"""The connection log says who a client is, where it has said so; whatever that is, a line stays a line."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from rproxy.downstream.mutual import Facts
from rproxy.interfaces import Arrival
from rproxy.policy.identity import Identity
from rproxy.services.access import MOST_SHOWN, ConnectionLog
from rproxy.services.userlog import UserLog
from rproxy.wire.address import Inet

FACTS: dict[str, Any] = {
    "app": "db", "peer": "10.0.0.7:5432", "received": 5, "sent": 6, "seconds": 1.25, "reason": "closed",
}  # fmt: skip
PLAIN = Arrival("tcp:5000", Inet("192.0.2.7", 1234), Inet("192.0.2.7", 1234))


def line(kind: type[ConnectionLog], arrival: Arrival, **facts: Any) -> str:
    got = list[bytes]()
    log = kind(Clock(), got.append)
    log.ended(arrival, **FACTS | facts)
    log.flush()
    (only,) = got
    return only.decode()


def identified(common_name: str, subject: str = "CN=x") -> Arrival:
    shown = Facts()
    shown.identity = Identity(subject, (), (), common_name)
    return PLAIN.with_shown(shown)


def test_a_client_that_is_known_has_its_common_name_in_the_line() -> None:
    """G-4."""
    assert line(UserLog, identified("bob@admin")) == (
        "1970-01-01T00:00:00Z client=192.0.2.7:1234 user=bob@admin name=- app=db peer=10.0.0.7:5432"
        " received=5 sent=6 seconds=1.250 reason=closed\n"
    )


def test_a_name_in_the_configuration_is_one_word_too() -> None:
    text = line(UserLog, identified("bob@admin"), app="my db", peer="unix:/run/my db")
    assert " app=my\\x20db peer=unix:/run/my\\x20db received=" in text


def test_others_have_the_line_that_they_always_had() -> None:
    for arrival in (PLAIN, PLAIN.with_shown(Facts())):
        assert line(UserLog, arrival) == line(ConnectionLog, PLAIN)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a b", "user=a\\x20b "),
        ("a\n2026 client=1.2.3.4:5 reason=ok", "user=a\\x0a2026\\x20client=1.2.3.4:5\\x20reason=ok "),
        ('"\\', "user=\\x22\\x5c "),
        ("é世", "user=\\xe9\\x4e16 "),
        ("x" * 5000, f"user={'x' * MOST_SHOWN} "),
        ("", "user=CN=x "),
    ],
)
def test_a_name_cannot_forge_a_field_or_a_line(name: str, shown: str) -> None:
    text = line(UserLog, identified(name))
    assert shown in text
    assert text.count("\n") == 1
    assert text.isascii()


def test_who_has_no_name_at_all_is_nobody() -> None:
    assert " user=- " in line(UserLog, identified("", ""))
