"""The part of `assemble` that answers on the admin socket: what is asked, what it does, what it tells."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from twisted.internet.threads import deferToThreadPool

from rproxy import assemble_status
from rproxy.policy.bantable import EVER
from rproxy.services.admin import Answer
from rproxy.services.banfile import LONGEST, read_line, stamp

MOST_LISTED: Final = 1000
"""Bans in an answer, the latest: more than anybody reads, in five milliseconds."""


class Served(assemble_status.Served, Protocol):
    """What `assemble.ProxyService` tells about itself, and does."""

    def try_reload(self) -> str:
        """Read the file again; why that is not done, or nothing."""


def answers(service: Served, clock: Any) -> dict[str, Answer]:
    """What the admin socket is asked for."""
    bans = service.guards.bans

    def ban(asked: Mapping[str, Any]) -> Mapping[str, Any]:
        address, seconds = _address(asked, "seconds"), asked.get("seconds")
        if seconds is not None and (
            isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= LONGEST
        ):
            raise ValueError(f"seconds is a number from 1 to {LONGEST}, which is a year")
        return _said({"banned": bans.ban(address, seconds)}, bans.save())

    def unban(asked: Mapping[str, Any]) -> Mapping[str, Any]:
        address = _address(asked)
        return _said({"unbanned": address, "was_banned": bans.unban(address)}, bans.save())

    def listed(asked: Mapping[str, Any]) -> Mapping[str, Any]:
        _nothing_else(asked)
        lines = bans.listed(MOST_LISTED)
        return {"count": len(bans), "bans": [_ban(line, clock.seconds()) for line in lines]}

    def status(asked: Mapping[str, Any]) -> Mapping[str, Any]:
        _nothing_else(asked)
        return assemble_status.status(service, clock.seconds())

    def certs(asked: Mapping[str, Any]) -> Any:
        _nothing_else(asked)
        return _certificates(service, clock)

    def reload(asked: Mapping[str, Any]) -> Mapping[str, Any]:
        _nothing_else(asked)
        mistakes = service.try_reload()
        return {"error": mistakes} if mistakes else {"reloaded": True}

    return {"ban": ban, "unban": unban, "bans": listed, "status": status, "certs": certs, "reload": reload}


def _address(asked: Mapping[str, Any], *others: str) -> str:
    address = asked.get("address")
    if not isinstance(address, str):
        raise ValueError('address is a text: "192.0.2.7", "10.0.0.0/8"')
    _nothing_else(asked, "address", *others)
    return address


def _nothing_else(asked: Mapping[str, Any], *known: str) -> None:
    for key in asked.keys() - set(known):
        raise ValueError(f"{key[:40]!r} is nothing that can be said here")


def _said(answer: dict[str, Any], trouble: str) -> Mapping[str, Any]:
    return answer | {"warning": trouble} if trouble else answer


def _ban(line: str, now: float) -> dict[str, Any]:
    found = read_line(line, now)
    assert found is not None
    until = None if found.until == EVER else stamp(found.until)
    return {"address": found.network.text, "until": until, "note": found.note.lstrip("# ")}


def _certificates(service: Served, reactor: Any) -> Any:
    """Those that clients are shown; OpenSSL is not imported to say that there are none.

    What ACME remembers of each is in files, of which a thousand take half a second: a thread reads them.
    """
    config = service.config
    kinds = [app.tls for app in config.apps.values()] + [each.tls for each in config.l4.values()]
    if not any(kinds):
        return {"certificates": []}
    from rproxy.assemble_tls import certificate_places
    from rproxy.services.certreport import as_objects, report

    listeners = [name for name, kind in service.listener_kinds().items() if kind == "tls"]
    places, moment = certificate_places(config, listeners), datetime.fromtimestamp(reactor.seconds(), UTC)
    in_use = {place.app: service.parts.in_use(place.app) for place in places}

    def told() -> dict[str, Any]:
        return {"certificates": as_objects(report(places, moment, in_use.get), moment)}

    return deferToThreadPool(reactor, reactor.getThreadPool(), told)
