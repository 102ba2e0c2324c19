"""The order of choice: exact name, wildcard, hosts folder, default, refusal."""

from __future__ import annotations

from typing import Any

import pytest

from rproxy.errors import UnknownName
from rproxy.interfaces import Arrival
from rproxy.policy.routes import NameTable
from rproxy.services.routing import Routing
from rproxy.wire.address import Inet
from rproxy.wire.clienthello import ClientHello

PEER = Inet("192.0.2.7", 1234)


class Folder:
    def __init__(self, *names: str) -> None:
        self.names, self.asked = names, list[str]()

    def find(self, name: str) -> Any:
        self.asked.append(name)
        return f"folder of {name}" if name in self.names else None


def arrival(name: str | None) -> Arrival:
    return Arrival("tcp:443", PEER, PEER, hello=ClientHello(name, (), (0x0304,)))


def routing(default: Any = None, folder: Any = None) -> Routing:
    it = Routing()
    table: Any = NameTable({"a.example": "exact", "*.example": "wildcard"})
    it.table, it.default, it.hosts = table, default, folder
    return it


@pytest.mark.parametrize(
    ("name", "route"),
    [
        ("a.example", "exact"),
        ("b.example", "wildcard"),
        ("in.folder", "folder of in.folder"),
        ("else.where", "default"),
        (None, "default"),
    ],
)
def test_each_name_has_its_route(name: str | None, route: str) -> None:
    chosen: Any = routing("default", Folder("in.folder", "a.example")).choose(arrival(name))
    assert chosen == route


@pytest.mark.parametrize("name", ["else.where", None])
def test_without_a_default_an_unknown_name_is_refused(name: str | None) -> None:
    with pytest.raises(UnknownName, match=name or "no name"):
        routing(folder=Folder()).choose(arrival(name))


def test_the_folder_is_asked_for_names_that_no_app_has_and_never_without_one() -> None:
    folder = Folder()
    it = routing("default", folder)
    for name in ("a.example", None, "else.where"):
        it.choose(arrival(name))
    assert folder.asked == ["else.where"]


def test_without_a_hello_there_is_only_the_default() -> None:
    plain: Any = routing("default").choose(Arrival("tcp:443", PEER, PEER))
    assert plain == "default"


def test_a_new_router_knows_nobody() -> None:
    with pytest.raises(UnknownName):
        Routing().choose(arrival("a.example"))
