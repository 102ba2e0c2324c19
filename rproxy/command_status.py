"""What `rproxy status` prints for people: tables as wide as what is in them. For `command_admin`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Any, Final

WIDTH: Final = 100
"""Columns of a line of names; what has no spaces may be longer."""
WIDEST: Final = 40
"""Columns that one cell makes all cells above and below it wide; a longer one moves its own line only."""
MOST_SHOWN: Final = 20
"""Clients of a service; `--json` has more of them."""
INDENT: Final = "    "

Status = Mapping[str, Any]
Cells = Sequence[str]


def status_text(status: Status) -> str:
    """A paragraph for each thing. Strangers choose some of the names: nothing in them is for the terminal."""
    paragraphs = [
        _process(status),
        ["listeners", *_table([each["name"], each["speaks"]] for each in status["listeners"])],
        *map(_app, status["apps"]),
        *([_hosts(status["hosts"])] if status["hosts"] is not None else []),
        *map(_l4, status["l4"]),
        *([_limits(status["limits"])] if status["limits"] else []),
        *([_jails(status["jails"])] if status["jails"] else []),
        [_bans(status["bans"])],
    ]
    return "\n\n".join("\n".join(map(_printable, lines)) for lines in paragraphs) + "\n"


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in line)


def _process(status: Status) -> list[str]:
    connections = status["connections"]
    each = connections["most_per_client"]
    per_client = f", {each} at most of one client" if each is not None else ""
    return [
        f"rproxy {status['version']}, process {status['pid']}",
        f"connections: {connections['open']} of {connections['most']}{per_client}",
    ]


def _app(app: Status) -> list[str]:
    return [
        f"app {app['name']}: {', '.join(app['serves'])}",
        *_fact("names", ", ".join(app["names"])),
        *_peers(app["peers"]),
    ]


def _hosts(hosts: Status) -> list[str]:
    return [f"hosts folder {hosts['directory']}" + (", names hashed" if hosts["hashed"] else "")]


def _l4(service: Status) -> list[str]:
    kind = "client certificates" if service["client_certificates"] else "tls" if service["tls"] else "plain"
    return [
        f"l4 {service['name']}: {kind}, {service['open']} open",
        *_fact("listens on", ", ".join(service["listen"])),
        *_fact("names", ", ".join(service["names"])),
        *_fact("groups", ", ".join(service["groups"])),
        *_peers(service["peers"]),
        *_clients(service["clients"]),
    ]


def _peers(peers: Sequence[Status]) -> list[str]:
    return _table(
        [
            peer["for"],
            peer["location"],
            peer["state"],
            f"{peer['open']} open",
            f"{peer['idle']} idle" if peer.get("idle") else "",
            f"weight {peer['weight']}" if peer["weight"] != 1 else "",
        ]
        for peer in peers
    )


def _clients(clients: Sequence[Status]) -> list[str]:
    more = len(clients) - MOST_SHOWN
    shown = [["client", each["client"], f"{each['open']} open"] for each in clients[:MOST_SHOWN]]
    return [*_table(shown), *([f"{INDENT}and {more} clients more"] if more > 0 else [])]


def _limits(limits: Sequence[Status]) -> list[str]:
    rows = (
        [each["name"], f"{each['clients']} clients", f"{each['open']} open", f"{each['refused']} refused"]
        for each in limits
    )
    return ["limits", *_table(rows)]


def _jails(jails: Sequence[Status]) -> list[str]:
    rows = (
        [each["name"], ", ".join(each["apps"]) or "all apps", f"{each['clients']} clients noted"]
        for each in jails
    )
    return ["jails", *_table(rows)]


def _bans(bans: Status) -> str:
    jails = f", {bans['by_jails']} of them by jails" if bans["by_jails"] else ""
    return f"bans: {bans['count']}{jails}; {bans['refused']} refused" + (
        f"; in {bans['file']}" if bans["file"] else ""
    )


def _fact(name: str, value: str) -> Iterator[str]:
    """A name and a value, in as many lines as it takes; nothing where there is no value."""
    margin = INDENT + " " * (len(name) + 2)
    lines = wrap(value, WIDTH - len(margin), break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(lines):
        yield (margin if number else f"{INDENT}{name}  ") + line


def _table(rows: Iterator[Cells] | Sequence[Cells]) -> list[str]:
    """Cells below each other; columns that are empty everywhere are left out."""
    known = list(rows)
    columns = [column for column in zip(*known, strict=True) if any(column)]
    widths = [max((len(cell) for cell in column if len(cell) <= WIDEST), default=0) for column in columns]
    return [
        (INDENT + "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))).rstrip()
        for cells in zip(*columns, strict=True)
    ]
