"""What limits, lists and bans add to a connection and to a request: rproxy with them and without.

What is measured is a hundredth of what it is added to, so more than turns are needed to see it. It is one
process, whose rules change by a reload, because two processes of the same program differ by more. And a
round with rules is scaled by what the backend needed for the same work in it and in the round without:
when the machine is slower, it is for both.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple

from configs import NO_RULES, Rules
from figures import Figure, Trouble
from proxies import Running
from works import WORKS, Run, Work, costs

BANS = 10_000
"""Networks on the ban list."""

TURNS, SECONDS = 12, 1
"""Pairs of rounds for each round of another case, and the length of each: many that are close together say
more than few long ones, between which the machine changes."""

BANNED, DENIED, OTHER = "127.0.0.8", "127.0.0.9", "127.0.0.7"
MOST_OPEN = 100
"""Connections of a client at a time; the load has 64 at most."""

PATIENCE = 10.0
"""Seconds that a connection may take that shows whether rules hold."""

ENOUGH = 'capacity = 10000000, fill_rate = "1s"'
LISTS = f'allow = ["127.0.0.0/8", "10.0.0.0/8"]\ndeny = ["{DENIED}", "192.0.2.0/24"]'
"""What the load's own client, 127.0.0.1, passes after everything was asked."""

CONNECTIONS = Rules(
    f"rate_limit = {{ {ENOUGH}, max_connections = {MOST_OPEN} }}\nmax_clients_per_ip = {2 * MOST_OPEN}\n"
    f'{LISTS}\nban_list = "bans.txt"'
)
REQUESTS = Rules(
    site=f"request_limit = {{ {ENOUGH} }}\n{LISTS}",
    paths=', { path = "/once", location = "127.0.0.1:1", '
    'request_limit = { capacity = 1, fill_rate = "1h" } }',
)


class Sign(NamedTuple):
    """A request by which it shows whether rules hold: then it has that status, 0 for none, and else 200.

    `held` is how many other connections its client has.
    """

    refusal: int
    source: str
    path: str = "/"
    held: int = 0


class Case(NamedTuple):
    """Rules that cost something, the work that they are asked about, and signs that they are."""

    rules: Rules
    work: Work
    signs: tuple[Sign, ...]


CASES = {
    "limits_conn": Case(
        CONNECTIONS,
        WORKS["h1_newconn"],
        (
            Sign(0, BANNED),
            Sign(0, DENIED),
            Sign(200, OTHER, held=MOST_OPEN - 1),
            Sign(0, OTHER, held=MOST_OPEN),
        ),
    ),
    "limits_request": Case(
        REQUESTS,
        WORKS["h1"],
        (Sign(403, DENIED), Sign(502, OTHER, "/once"), Sign(429, OTHER, "/once")),
    ),
}


def limits(case: str, run: Run) -> Iterable[Figure]:
    """CPU per unit of work without the rules of a case and with them, and the difference of the two."""
    figure, brief = Figure(case, CASES[case].work.unit, ours="with", baseline="without"), CASES[case]
    _write_bans(run)
    ours = run.yard.rproxy()
    try:
        for _ in range(TURNS * run.rounds):
            figure.take_pair(lambda: _pair(ours, brief, replace(run, seconds=SECONDS)))
    finally:
        ours.stop()
    figure.note_spread()
    yield figure


def check(port: int, sign: Sign, hold: bool) -> None:
    """Raises `Trouble` when rules hold that should not, or the other way round."""
    wanted = sign.refusal if hold else 200
    with ExitStack() as stack:
        for _ in range(sign.held):
            stack.enter_context(_connection(port, sign.source))
        status = _status(stack.enter_context(_connection(port, sign.source)), sign.path)
    if status != wanted:
        raise Trouble(f"{sign.path} for {sign.source} has status {status} and not {wanted}")


def _write_bans(run: Run) -> None:
    nobody = (f"198.18.{number >> 8}.{number & 255}" for number in range(BANS - 1))
    (run.yard.folder / "bans.txt").write_text("\n".join([BANNED, *nobody]) + "\n")


def _pair(ours: Running, brief: Case, run: Run) -> tuple[float, float]:
    """One round without the rules and one with them, at the pace of the first."""
    found = []
    for rules, hold in ((NO_RULES, False), (brief.rules, True)):
        run.yard.reload(ours, rules)
        for sign in brief.signs:
            check(ours.ports.http, sign, hold)
        found.append(costs((ours, run.yard.backend), brief.work, run))
    (without, pace), (rules_cost, rules_pace) = found
    return without, rules_cost * pace / rules_pace


def _connection(port: int, source: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE, (source, 0))


def _status(stream: socket.socket, path: str) -> int:
    try:
        stream.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = stream.recv(65536)
    except ConnectionError:  # closed by a proxy that does not read what it refuses
        return 0
    return int(answer.split()[1]) if answer else 0
