"""RFC 9113 and RFC 7541 case by case, against a running proxy, in clear text and inside TLS.

The tables have what h2spec asks with --strict, in version 2.6 and after it, and what it does not ask.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.fronts import SCHEMES, Front
from tests.e2e.http2_cases_beyond import FIELDS, FRAMES, TABLES
from tests.e2e.http2_cases_frames import CONNECTIONS, STREAMS
from tests.e2e.http2_cases_messages import GENERIC, HPACK, MESSAGES
from tests.e2e.http2_right import Case, names_of
from tests.e2e.http2_wire import HOST, Answering, Wire, dial
from tests.e2e.programs import Programs

H2SPEC = [*GENERIC, *CONNECTIONS, *STREAMS, *MESSAGES, *HPACK]

BEYOND = [*FRAMES, *TABLES, *FIELDS]


@pytest.fixture(scope="module")
def origin() -> Iterator[Answering]:
    made = Answering()
    yield made
    made.end()


@pytest.fixture(scope="module")
def front(lasting_programs: Programs, origin: Answering) -> Front:
    return Front(lasting_programs, origin.backend.location)


def joined(front: Front, scheme: str) -> Wire:
    return dial(front.ports[scheme], HOST.decode("ascii") if scheme == "https" else "")


@pytest.mark.parametrize("case", H2SPEC, ids=names_of(H2SPEC))
@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_h2spec_asks(front: Front, scheme: str, case: Case) -> None:
    wire = joined(front, scheme)
    with wire.socket:
        case.play(wire)


@pytest.mark.parametrize("case", BEYOND, ids=names_of(BEYOND))
def test_what_it_does_not_ask(front: Front, case: Case) -> None:
    wire = joined(front, "http")
    with wire.socket:
        case.play(wire)


def test_that_is_all_that_it_asks() -> None:
    assert len(H2SPEC) == 149
    assert len(set(names_of(H2SPEC))) == 149
