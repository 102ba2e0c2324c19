"""Gates learn of a ban at once, by the clock and by the list that holds now."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from rproxy.errors import Banned
from rproxy.policy.bantable import EVER, BanTable, read_network
from rproxy.services.bancheck import BanCheck


def table(network: str, until: float = EVER) -> BanTable:
    made = BanTable()
    made.add(read_network(network), until)
    made.settle()
    return made


def test_the_check_goes_by_the_clock_and_by_another_list_at_once() -> None:
    clock = Clock()
    check = BanCheck(clock, table("192.0.2.7", until=5.0))
    with pytest.raises(Banned):
        check.check("192.0.2.7")
    clock.advance(5.0)
    check.check("192.0.2.7")
    check.check("192.0.2.8")
    check.table = table("192.0.2.8")
    with pytest.raises(Banned):
        check.check("192.0.2.8")
    assert check.refused == 2
