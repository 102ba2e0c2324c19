"""What the admin socket does and tells, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import MultiService
from twisted.internet.task import Clock

from rproxy.assemble_admin import MOST_LISTED, answers
from rproxy.assemble_limits import Guards
from rproxy.config.load import parse
from rproxy.keypair import KeyPair
from rproxy.services.banfile import LONGEST
from rproxy.services.connections import Connections
from tests.fakes import Journal
from tests.tlspeers import make

TEXT = """
state_directory = "state"
listen_port_tls = 443
max_clients = 99
ban_list = "bans.txt"
[apps.site]
server_name = ["a.test", "*.b.test"]
rate_limit = { capacity = 1, fill_rate = 60, max_connections = 5 }
tls.self_signed = true
reverse_proxy = [{ location = "10.0.0.5:80" }, { location = "10.0.0.6:80" }]
[apps.stream]
server_name = "s.test"
passthrough = { upstream = [{ location = "10.0.0.7" }] }
[l4.db]
listen = ":5000"
upstream = [{ location = "10.0.0.8:5432" }]
tls = { tls_cert_path = "db.pem", tls_cert_key_path = "db.key" }
"""


class Parts:
    """Stands for `assemble_parts.Parts`: what is in use, and no peers."""

    def __init__(self) -> None:
        self.pairs: dict[str, tuple[KeyPair, ...]] = {}

    def known(self, key: object) -> None:
        return None

    def in_use(self, name: str) -> tuple[tuple[KeyPair, ...], str] | None:
        return (self.pairs[name], "") if name in self.pairs else None


class L4:
    def __init__(self) -> None:
        self.limiters: dict[str, object] = {}


class Machine(Clock):
    """A clock with a thread pool that does everything at once."""

    def getThreadPool(self) -> Any:
        return self

    def callInThreadWithCallback(self, done: Any, call: Any, *arguments: Any) -> None:
        done(True, call(*arguments))

    def callFromThread(self, call: Any, *arguments: Any) -> None:
        call(*arguments)


class Proxy:
    """Implements `assemble_admin.Served`."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.connections, self.parts = Machine(), Connections(), Parts()
        self.clock.advance(1_800_000_000)
        self.config = parse(TEXT, str(folder / "x.toml"), rows=())
        self.guards = Guards(self.clock, Journal(), lambda: (), MultiService())  # type: ignore[arg-type]
        self.guards.use(self.guards.build(self.config, ["tcp:443"]))
        self.mistakes, self.l4 = "", L4()
        self.answers = answers(self, self.clock)  # type: ignore[arg-type]

    def listener_kinds(self) -> dict[str, str]:
        return {"tcp:443": "tls", "tcp:80": "http", "tcp:5000": "l4"}

    def try_reload(self) -> str:
        return self.mistakes

    def asks(self, word: str, **rest: Any) -> Any:
        return self.answers[word](rest)

    def certificates(self) -> Any:
        told: list[Any] = []
        self.asks("certs").addCallback(told.append)
        return told[0]["certificates"]


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    made = Proxy(tmp_path)
    yield made
    made.guards.bans.stopService()


def test_a_ban_holds_and_is_in_the_file_when_the_answer_comes(proxy: Proxy, tmp_path: Path) -> None:
    assert proxy.asks("ban", address="192.0.2.7", seconds=3600) == {
        "banned": "192.0.2.7 2027-01-15T09:00:00Z"
    }
    assert proxy.asks("ban", address="2001:DB8::/64") == {"banned": "2001:db8::/64"}
    assert proxy.guards.bans.banned("2001:db8::9")
    assert (tmp_path / "bans.txt").read_text() == "192.0.2.7 2027-01-15T09:00:00Z\n2001:db8::/64\n"
    assert proxy.asks("unban", address="192.0.2.7") == {"unbanned": "192.0.2.7", "was_banned": True}
    assert proxy.asks("unban", address="192.0.2.7") == {"unbanned": "192.0.2.7", "was_banned": False}
    assert (tmp_path / "bans.txt").read_text() == "2001:db8::/64\n"


def test_a_ban_that_cannot_be_written_holds_with_a_warning(proxy: Proxy, tmp_path: Path) -> None:
    (tmp_path / "bans.txt").mkdir()
    answer = proxy.asks("ban", address="192.0.2.7")
    assert answer["banned"] == "192.0.2.7"
    assert answer["warning"].startswith(f"{tmp_path}/bans.txt ")
    assert proxy.guards.bans.banned("192.0.2.7")


@pytest.mark.parametrize(
    ("word", "asked", "wrong"),
    [
        ("ban", {}, "address is a text"),
        ("ban", {"address": 5}, "address is a text"),
        ("ban", {"address": "nobody"}, "is no network"),
        ("ban", {"address": "10.0.0.1/8"}, "write 10.0.0.0/8"),
        ("ban", {"address": "192.0.2.7", "seconds": 0}, "seconds is a number"),
        ("ban", {"address": "192.0.2.7", "seconds": LONGEST + 1}, "seconds is a number"),
        ("ban", {"address": "192.0.2.7", "seconds": True}, "seconds is a number"),
        ("ban", {"address": "192.0.2.7", "seconds": "60"}, "seconds is a number"),
        ("ban", {"address": "192.0.2.7", "seconds": float("nan")}, "seconds is a number"),
        ("ban", {"address": "192.0.2.7", "for": 60}, "'for' is nothing"),
        ("unban", {"address": "192.0.2.7", "seconds": 60}, "'seconds' is nothing"),
        ("unban", {"address": "nobody"}, "is no network"),
        ("bans", {"address": "192.0.2.7"}, "'address' is nothing"),
        ("status", {"x": 1}, "'x' is nothing"),
        ("reload", {"x": 1}, "'x' is nothing"),
        ("certs", {"x": 1}, "'x' is nothing"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(
    proxy: Proxy, word: str, asked: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(ValueError, match=wrong):
        proxy.asks(word, **asked)
    assert len(proxy.guards.bans) == 0


def test_the_bans_are_told_with_their_ends_and_reasons(proxy: Proxy) -> None:
    proxy.guards.bans.ban("192.0.2.7")
    proxy.guards.bans.ban("192.0.2.8", 60, "# jail: status 401")
    assert proxy.asks("bans") == {
        "count": 2,
        "bans": [
            {"address": "192.0.2.8", "until": "2027-01-15T08:01:00Z", "note": "jail: status 401"},
            {"address": "192.0.2.7", "until": None, "note": ""},
        ],
    }


def test_of_many_bans_only_the_latest_are_told(proxy: Proxy) -> None:
    for number in range(MOST_LISTED + 5):
        proxy.guards.bans.ban(f"10.0.{number >> 8}.{number & 255}")
    answer = proxy.asks("bans")
    assert (answer["count"], len(answer["bans"])) == (MOST_LISTED + 5, MOST_LISTED)


def test_a_reload_is_done_or_not(proxy: Proxy) -> None:
    assert proxy.asks("reload") == {"reloaded": True}
    proxy.mistakes = "x.toml:1:1: no such key"
    assert proxy.asks("reload") == {"error": "x.toml:1:1: no such key"}


def test_the_status_is_told(proxy: Proxy) -> None:
    """What it holds is shown in test_assemble_status."""
    status = proxy.asks("status")
    assert [app["name"] for app in status["apps"]] == ["site", "stream"]
    assert [service["name"] for service in status["l4"]] == ["db"]


def test_the_certificates_are_those_in_use(proxy: Proxy, tmp_path: Path) -> None:
    proxy.parts.pairs["l4.db"] = (make("db.test").pair(tmp_path, "db"),)
    (tmp_path / "db.pem").unlink()
    proxy.parts.pairs["site"] = ()
    site, database = proxy.certificates()
    assert (site["app"], site["listeners"], site["source"]) == ("site", ("tcp:443",), "self-signed")
    assert (site["issuer"], site["problem"]) == (None, "there is no certificate yet")
    assert (database["app"], database["listeners"], database["source"]) == ("l4.db", ("tcp:5000",), "files")
    assert (database["good_for"], database["issuer"], database["served"]) == (("db.test",), "db.test", True)
    assert database["days_left"] < 0, "by the proxy's clock, which is in 2027"


def test_without_tls_there_are_none_and_openssl_is_not_asked(proxy: Proxy, tmp_path: Path) -> None:
    proxy.config = parse('listen_port = 80\nhosts.directory = "."\n', str(tmp_path / "x.toml"))
    assert proxy.asks("certs") == {"certificates": []}
