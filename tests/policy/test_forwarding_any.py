"""What holds for any fields and any names in Connection, in both directions."""

from hypothesis import given
from hypothesis import strategies as st

from rproxy.policy.forwarding import RequestRewriter
from rproxy.policy.rules import HeaderRules, Side
from rproxy.wire.address import Inet
from rproxy.wire.http1_write import framing_pairs, request_head, response_head
from rproxy.wire.message import Framing, Headers, Pair, Request
from tests.policy.heads import FORGED, OURS, answer, facts, get, received
from tests.wire.reading import changed

NAMES = st.one_of(
    st.sampled_from(
        [*FORGED, *OURS, b"Host", b"Cookie", b"Forwarded", b"TE", b"Connection", b"Upgrade", b"X-A"]
    ),
    st.from_regex(rb"\A[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}\Z"),
)
VALUES = st.from_regex(rb"\A(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]{0,20}[!-~\x80-\xff])?)?\Z")
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=12)
WITH_ALL = RequestRewriter(
    frozenset(["upgrade_insecure_requests", "forwarded_header"]),
    HeaderRules(Side.REQUEST, set={"X-Rule": "kept"}),
    sticky=b"stick",
)


def request_with(fields: list[Pair], connection: frozenset[bytes], upgrade: bytes) -> Request:
    """As a codec might give it, and worse: any fields, any names in Connection."""
    plain = get()
    return changed(plain, headers=Headers(fields), connection=connection, upgrade=upgrade)


@given(
    FIELDS,
    st.frozensets(NAMES.map(bytes.lower)),
    st.sampled_from([b"", b"websocket", b"h2c, a"]),
    st.booleans(),
    st.booleans(),
)
def test_whatever_a_client_sends_our_fields_are_there_once_and_ours(
    fields: list[Pair], connection: frozenset[bytes], upgrade: bytes, wanted: bool, trusted: bool
) -> None:
    request = request_with(fields, connection, upgrade)
    client = facts(Inet("10.0.0.9", 1)) if trusted else facts()
    pairs = WITH_ALL.fields(request, client, b"peer", upgrade=wanted).pairs
    names = [name.lower() for name, _ in pairs]
    expected = OURS | {b"Host": b"app.example", b"X-Rule": b"kept"}
    for name, value in expected.items():
        assert names.count(name.lower()) == 1, name
        assert trusted or dict(pairs)[name] == value
    assert dict(pairs)[b"X-Forwarded-For"].endswith(client.node.encode())
    assert names.count(b"forwarded") == 1
    assert names.count(b"cookie") <= 1
    assert not {b"proxy", b"keep-alive", b"transfer-encoding", b"content-length"} & set(names)
    assert names.count(b"connection") == (b"upgrade" in names or b"te" in names)
    request_head(b"GET", b"/", [*pairs, *framing_pairs(Framing.LENGTH, 5)])


@given(FIELDS, st.frozensets(NAMES.map(bytes.lower)))
def test_whatever_a_peer_sends_nothing_about_its_connection_gets_out(
    fields: list[Pair], connection: frozenset[bytes]
) -> None:
    response = changed(answer(), headers=Headers(fields), connection=connection)
    pairs = received(response)
    assert all(pair in fields for pair in pairs)
    assert not {b"connection", b"upgrade", b"te", b"alt-svc", b"keep-alive"} & {n.lower() for n, _ in pairs}
    response_head(200, b"OK", pairs)
