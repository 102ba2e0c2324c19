"""Headers, the message values, and what each refusal answers."""

import pytest

from rproxy.errors import Refusal
from rproxy.wire import message
from rproxy.wire.message import Framing, Headers, Response

PAIRS = [(b"Host", b"a"), (b"X-Tag", b"1"), (b"x-tag", b"2"), (b"COOKIE", b"c=d")]


def response(status: int) -> Response:
    return Response(11, status, b"", Headers([]), Framing.NONE, 0, True, frozenset(), b"")


def test_names_are_compared_in_lower_case_and_kept_as_spelled() -> None:
    headers = Headers(PAIRS)
    assert headers.names == [b"host", b"x-tag", b"x-tag", b"cookie"]
    assert list(headers.pairs) == PAIRS


def test_get_gives_the_first_value_or_none() -> None:
    headers = Headers(PAIRS)
    assert headers.get(b"x-tag") == b"1"
    assert headers.get(b"cookie") == b"c=d"
    assert headers.get(b"accept") is None


def test_all_gives_every_value_in_order() -> None:
    headers = Headers(PAIRS)
    assert headers.all(b"x-tag") == [b"1", b"2"]
    assert headers.all(b"accept") == []


def test_without_drops_every_spelling_and_changes_nothing() -> None:
    headers = Headers(PAIRS)
    assert headers.without({b"x-tag", b"accept"}) == [(b"Host", b"a"), (b"COOKIE", b"c=d")]
    assert list(headers.pairs) == PAIRS


def test_headers_are_equal_if_their_pairs_are() -> None:
    assert Headers(PAIRS) == Headers(tuple(PAIRS))
    assert hash(Headers(PAIRS)) == hash(Headers(tuple(PAIRS)))
    assert Headers(PAIRS) != Headers(PAIRS[1:])
    assert Headers([(b"a", b"b")]) != Headers([(b"A", b"b")])
    assert Headers([]) != []


def test_repr_shows_the_pairs() -> None:
    assert repr(Headers([(b"a", b"b")])) == "Headers([(b'a', b'b')])"


@pytest.mark.parametrize(
    ("status", "interim"), [(100, True), (103, True), (199, True), (101, False), (200, False), (304, False)]
)
def test_every_1xx_but_101_is_followed_by_another_response(status: int, interim: bool) -> None:
    assert response(status).interim is interim


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (message.BadRequest, 400),
        (message.TargetTooLong, 414),
        (message.ExpectationFailed, 417),
        (message.HeadTooLarge, 431),
        (message.NotImplementedHere, 501),
        (message.BadResponse, 502),
        (message.UnknownVersion, 505),
    ],
)
def test_refusals_know_their_status_and_have_no_tls_alert(kind: type[Refusal], status: int) -> None:
    assert (kind.status, kind.alert, kind.other_peer) == (status, None, False)
    assert issubclass(kind, message.BadRequest) is (status != 502)
