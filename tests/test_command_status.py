"""What `rproxy status` prints: nothing is left out, columns stand below each other, names do no harm."""

from __future__ import annotations

import copy
from typing import Any

from rproxy.command_status import MOST_SHOWN, WIDTH, status_text


def peer(location: str, group: str = "passthrough", **more: Any) -> dict[str, Any]:
    return {
        "for": group,
        "location": location,
        "state": "up",
        "checked": False,
        "open": 0,
        "weight": 1,
    } | more


STATUS: dict[str, Any] = {
    "version": "1.0",
    "pid": 7,
    "connections": {"open": 3, "most": 512, "most_per_client": 20},
    "listeners": [{"name": "tcp:443", "speaks": "tls"}, {"name": "tcp:5000:interface=::1", "speaks": "l4"}],
    "apps": [
        {
            "name": "site",
            "names": ["a.test", "b.test"],
            "serves": ["tls", "http"],
            "peers": [
                peer("10.0.0.5:80", "/", state="down", open=2, weight=3, idle=0),
                peer("unix:/run/api.sock", "/api", open=12, idle=4, checked=True),
            ],
        },
        {"name": "stream", "names": ["c.test"], "serves": ["passthrough"], "peers": [peer("10.0.0.6:443")]},
    ],
    "hosts": {"directory": "/srv/hosts", "hashed": True},
    "l4": [
        {
            "name": "db",
            "listen": ["tcp:5000"],
            "names": ["db.test"],
            "tls": True,
            "client_certificates": True,
            "groups": ["admin", "ops"],
            "open": 3,
            "clients": [{"client": "alice@admin", "open": 2}, {"client": "bob@ops", "open": 1}],
            "peers": [peer("10.0.0.7:5432", "tcp", open=3), peer("10.0.0.8:5432", "tcp", state="unhealthy")],
        },
        {
            "name": "ssh",
            "listen": ["tcp:22"],
            "names": [],
            "tls": False,
            "client_certificates": False,
            "groups": [],
            "open": 0,
            "clients": [],
            "peers": [],
        },
    ],
    "limits": [
        {"name": "apps.site.rate_limit", "clients": 4, "open": 2, "refused": 9},
        {"name": "l4.db", "clients": 0, "open": 3, "refused": 0},
    ],
    "jails": [
        {"name": "status 401", "apps": [], "clients": 2},
        {"name": "reason x", "apps": ["a"], "clients": 0},
    ],
    "bans": {"count": 5, "by_jails": 2, "refused": 6, "file": "/etc/bans.txt"},
}
TEXT = """\
rproxy 1.0, process 7
connections: 3 of 512, 20 at most of one client

listeners
    tcp:443                 tls
    tcp:5000:interface=::1  l4

app site: tls, http
    names  a.test, b.test
    /     10.0.0.5:80         down  2 open           weight 3
    /api  unix:/run/api.sock  up    12 open  4 idle

app stream: passthrough
    names  c.test
    passthrough  10.0.0.6:443  up  0 open

hosts folder /srv/hosts, names hashed

l4 db: client certificates, 3 open
    listens on  tcp:5000
    names  db.test
    groups  admin, ops
    tcp  10.0.0.7:5432  up         3 open
    tcp  10.0.0.8:5432  unhealthy  0 open
    client  alice@admin  2 open
    client  bob@ops      1 open

l4 ssh: plain, 0 open
    listens on  tcp:22

limits
    apps.site.rate_limit  4 clients  2 open  9 refused
    l4.db                 0 clients  3 open  0 refused

jails
    status 401  all apps  2 clients noted
    reason x    a         0 clients noted

bans: 5, 2 of them by jails; 6 refused; in /etc/bans.txt
"""


def changed(change: Any) -> str:
    status = copy.deepcopy(STATUS)
    change(status)
    return status_text(status)


def test_everything_is_shown_in_columns() -> None:
    assert status_text(STATUS) == TEXT


def test_what_there_is_not_takes_no_room() -> None:
    def empty(status: dict[str, Any]) -> None:
        status.update(apps=[], l4=[], limits=[], jails=[], hosts=None, listeners=[])
        status["connections"]["most_per_client"] = None
        status["bans"] = {"count": 0, "by_jails": 0, "refused": 0, "file": None}

    assert changed(empty) == (
        "rproxy 1.0, process 7\nconnections: 3 of 512\n\nlisteners\n\nbans: 0; 0 refused\n"
    )


def test_one_long_location_moves_its_own_line_only() -> None:
    long = "unix:/run/" + "x" * 100

    def lengthen(status: dict[str, Any]) -> None:
        status["apps"][0]["peers"].append(peer(long, "/long", open=1, idle=0))

    lines = changed(lengthen).split("\n")
    assert "    /      10.0.0.5:80         down  2 open           weight 3" in lines
    assert f"    /long  {long}  up    1 open" in lines


def test_many_names_take_several_lines_and_none_is_cut() -> None:
    names = [f"rather-long-name-{number}.example.org" for number in range(30)]

    def rename(status: dict[str, Any]) -> None:
        status["apps"][0]["names"] = names

    text = changed(rename)
    begin = text.index("    names  rather")
    lines = text[begin : text.index("    /  ")].rstrip("\n").split("\n")
    assert max(map(len, lines)) <= WIDTH
    assert all(line.startswith(" " * 11) for line in lines[1:])
    assert [
        name for line in lines for name in line.removeprefix("    names").strip(" ,").split(", ")
    ] == names


def test_of_many_clients_those_with_the_most_are_shown() -> None:
    def crowd(status: dict[str, Any]) -> None:
        clients = [{"client": f"user{number}@admin", "open": 99 - number} for number in range(50)]
        status["l4"][0]["clients"] = clients

    text = changed(crowd)
    assert text.count("    client  ") == MOST_SHOWN
    assert "user0@admin " in text
    assert f"\n    and {50 - MOST_SHOWN} clients more\n" in text


def test_a_name_in_a_certificate_cannot_drive_the_terminal() -> None:
    def attack(status: dict[str, Any]) -> None:
        status["l4"][0]["clients"] = [{"client": "\x1b[2Jbob\r\u202eadmin\x00\x9b", "open": 1}]

    text = changed(attack)
    assert "    client  ?[2Jbob??admin??  1 open\n" in text


def test_a_name_with_a_line_break_stays_one_line() -> None:
    def attack(status: dict[str, Any]) -> None:
        status["l4"][0]["clients"] = [{"client": "bob\nbans: none", "open": 1}]

    assert "    client  bob?bans: none  1 open\n" in changed(attack)
