"""The tables of HPACK against those of the library."""

from __future__ import annotations

from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.table import HeaderTable

from rproxy.wire.http2_tables import HUFFMAN, STATIC, codes


def test_the_fields_that_both_sides_know() -> None:
    assert HeaderTable.STATIC_TABLE == STATIC


def test_every_symbol_has_its_code() -> None:
    library = dict(enumerate(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True)))
    end = library.pop(256)
    assert codes() == library
    assert end not in codes().values()


def test_the_machine_has_a_state_for_each_beginning_of_a_code() -> None:
    begun = {code >> cut for code, length in codes().values() for cut in range(1, length + 1)}
    assert len(HUFFMAN.states) == len(HUFFMAN.symbols) == 16 * len({*_beginnings()})
    assert len(HUFFMAN.ends) == 8
    assert begun


def _beginnings() -> set[tuple[int, int]]:
    return {(code >> cut, length - cut) for code, length in codes().values() for cut in range(1, length + 1)}
