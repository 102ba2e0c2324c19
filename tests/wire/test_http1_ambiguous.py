"""Requests that two parsers read in two ways: each is refused, or comes out in one well-formed form."""

from collections import Counter

import pytest

from tests.wire.ambiguous_bodies import CHUNKS, CODINGS, LENGTHS, WAITS
from tests.wire.ambiguous_heads import FIELDS, HOSTS, LINES
from tests.wire.reading import forwarded, however_cut, requests

GROUPS = {
    "length": LENGTHS,
    "coding": CODINGS,
    "chunk": CHUNKS,
    "field": FIELDS,
    "host": HOSTS,
    "line": LINES,
}
ROWS = [
    pytest.param(row[1], row[2:], id=f"{group}: {row[0]}") for group, rows in GROUPS.items() for row in rows
]


def verdict(pieces: list[bytes]) -> tuple[int | bytes | str, ...]:
    transcript = requests(pieces)
    given: list[int | bytes | str] = [
        forwarded(message) for message in transcript.messages if message.complete or not transcript.refused
    ]
    if transcript.refused is not None:
        return (*given, transcript.refused)
    waits = transcript.rest or not all(message.complete for message in transcript.messages)
    return (*given, WAITS) if waits else tuple(given)


@pytest.mark.parametrize(("data", "expected"), ROWS)
def test_is_refused_or_has_one_meaning_however_it_is_cut(
    data: bytes, expected: tuple[int | bytes | str, ...]
) -> None:
    assert however_cut(verdict, data) == expected


def test_rows_are_many_and_none_stands_twice() -> None:
    assert len(ROWS) >= 150
    counts = Counter(row[1] for rows in GROUPS.values() for row in rows)
    assert [data for data, count in counts.items() if count > 1] == []
