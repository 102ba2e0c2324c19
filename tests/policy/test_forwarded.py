"""Chains of forwarding fields: what is read, what is believed of it, and what is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.policy.forwarded import (
    MAX_BYTES,
    MAX_HOPS,
    Claims,
    Hop,
    believe,
    read_addresses,
    read_forwarded,
    read_node,
    write_forwarded,
)
from rproxy.policy.networks import NetworkSet
from rproxy.wire.message import Headers

TRUSTED = NetworkSet(["10.0.0.0/8", "2001:db8:10::/48"])
PEER = Hop("10.1.2.3", b"http")


def claims(*pairs: tuple[bytes, bytes], peer: Hop = PEER, port: int = 8080) -> Claims:
    return believe(Headers(pairs), peer, port, TRUSTED)


def chain(*pairs: tuple[bytes, bytes]) -> list[str]:
    return [hop.node for hop in claims(*pairs).hops]


def xff(*values: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"X-Forwarded-For", value) for value in values]


def fwd(*values: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"Forwarded", value) for value in values]


@pytest.mark.parametrize(
    ("pairs", "nodes"),
    [
        ([], ["10.1.2.3"]),
        (xff(b""), ["10.1.2.3"]),
        (xff(b"198.51.100.10"), ["198.51.100.10", "10.1.2.3"]),
        (xff(b"198.51.100.10, 10.9.0.4"), ["198.51.100.10", "10.9.0.4", "10.1.2.3"]),
        (xff(b"198.51.100.10", b"10.9.0.4"), ["198.51.100.10", "10.9.0.4", "10.1.2.3"]),
        (xff(b"198.51.100.10 ,, \t10.9.0.4,"), ["198.51.100.10", "10.9.0.4", "10.1.2.3"]),
        # What stands left of the last one who is not trusted, that one may have made up.
        (xff(b"6.6.6.6, 203.0.113.20"), ["203.0.113.20", "10.1.2.3"]),
        (xff(b"10.0.0.9, 203.0.113.20, 10.9.0.4"), ["203.0.113.20", "10.9.0.4", "10.1.2.3"]),
        (xff(b"10.0.0.9, 10.9.0.4"), ["10.0.0.9", "10.9.0.4", "10.1.2.3"]),
        (xff(b"::ffff:198.51.100.10, ::FFFF:10.9.0.4"), ["198.51.100.10", "10.9.0.4", "10.1.2.3"]),
        (xff(b"2001:DB8:0:0::7, 2001:db8:10::1"), ["2001:db8::7", "2001:db8:10::1", "10.1.2.3"]),
        (xff(b"198.51.100.10:4711, [2001:db8:10::1]:80"), ["198.51.100.10", "2001:db8:10::1", "10.1.2.3"]),
        # No address, anywhere: nothing of it is believed.
        (xff(b"unknown, 198.51.100.10"), ["198.51.100.10", "10.1.2.3"]),
        (xff(b"198.51.100.10, _hidden"), ["10.1.2.3"]),
        (xff(b"198.51.100.256"), ["10.1.2.3"]),
        (xff(b"010.0.0.1"), ["10.1.2.3"]),
        (xff(b"localhost"), ["10.1.2.3"]),
        (xff(b"198.51.100.10 10.9.0.4"), ["10.1.2.3"]),
        (xff(b"198.51.100.10; 10.9.0.4"), ["10.1.2.3"]),
        (xff(b"fe80::1%eth0"), ["10.1.2.3"]),
        (xff(b"198.51.100.10\xff"), ["10.1.2.3"]),
        # Forwarded says more, as long as it says the same.
        (fwd(b"for=198.51.100.10, for=10.9.0.4"), ["198.51.100.10", "10.9.0.4", "10.1.2.3"]),
        (fwd(b"for=198.51.100.10", b"for=10.9.0.4"), ["198.51.100.10", "10.9.0.4", "10.1.2.3"]),
        (fwd(b"for=unknown, for=198.51.100.10"), ["198.51.100.10", "10.1.2.3"]),
        (fwd(b"for=198.51.100.10, for=unknown"), ["10.1.2.3"]),
        (fwd(b"for=198.51.100.10, for=_b, for=10.9.0.4"), ["10.1.2.3"]),
        (fwd(b"for=198.51.100.10;for=10.9.0.4"), ["10.1.2.3"]),
        (fwd(b"proto=https"), ["10.1.2.3"]),
        (fwd(b"for=203.0.113.20") + xff(b"198.51.100.10"), ["198.51.100.10", "10.1.2.3"]),
        (fwd(b"for=nonsense") + xff(b"198.51.100.10"), ["198.51.100.10", "10.1.2.3"]),
        (fwd(b"for=1.2.3.4, for=198.51.100.10") + xff(b"198.51.100.10"), ["198.51.100.10", "10.1.2.3"]),
        (fwd(b"for=198.51.100.10") + xff(b"nonsense"), ["198.51.100.10", "10.1.2.3"]),
    ],
)
def test_a_chain_is_believed_up_to_the_last_hop_that_is_not_trusted(
    pairs: list[tuple[bytes, bytes]], nodes: list[str]
) -> None:
    """R-HU-5."""
    assert chain(*pairs) == nodes


def test_forwarded_that_agrees_keeps_what_each_hop_says() -> None:
    pairs = xff(b"2001:db8::7") + fwd(
        b'for="[2001:db8::7]:4711";proto=HTTPS;host="a.example:8443";by=10.9.0.4'
    )
    assert claims(*pairs).hops == (Hop("2001:db8::7", b"https", b"a.example:8443"), PEER)


def test_a_peer_without_address_ends_the_chain_all_the_same() -> None:
    unix = Hop("unknown", b"http")
    assert claims(*xff(b"198.51.100.10"), peer=unix).hops == (Hop("198.51.100.10"), unix)


@pytest.mark.parametrize(
    ("pairs", "https", "port"),
    [
        ([], False, 8080),
        ([(b"X-Forwarded-Proto", b"https")], True, 443),
        ([(b"X-Forwarded-Proto", b"HTTPS, http")], True, 443),
        ([(b"X-Forwarded-Proto", b"http")], False, 8080),
        ([(b"X-Forwarded-Proto", b"wss")], False, 8080),
        ([(b"X-Forwarded-Proto", b"https, wss")], False, 8080),
        ([(b"X-Forwarded-Proto", b"")], False, 8080),
        ([(b"X-Forwarded-Proto", b"https"), (b"X-Forwarded-Port", b"8443")], True, 8443),
        ([(b"X-Forwarded-Proto", b"https"), (b"X-Forwarded-Port", b"0")], True, 443),
        ([(b"X-Forwarded-Proto", b"https"), (b"X-Forwarded-Port", b"65536")], True, 443),
        ([(b"X-Forwarded-Proto", b"https"), (b"X-Forwarded-Port", b"+443")], True, 443),
        ([(b"X-Forwarded-Port", b"1"), (b"X-Forwarded-Port", b"2")], False, 8080),
        ([(b"X-Forwarded-Port", b"81")], False, 81),
        (fwd(b"for=198.51.100.10;proto=https"), True, 443),
        (fwd(b"for=6.6.6.6;proto=https, for=198.51.100.10;proto=http"), False, 8080),
        ([*fwd(b"for=198.51.100.10;proto=https"), (b"X-Forwarded-Proto", b"http")], False, 8080),
    ],
)
def test_the_proto_of_the_client_is_believed_and_brings_its_port(
    pairs: list[tuple[bytes, bytes]], https: bool, port: int
) -> None:
    """R-HU-4."""
    assert claims(*pairs)[1:] == (https, port)


def test_a_client_of_clear_text_behind_our_tls_is_seen_as_one() -> None:
    tls = Hop("10.1.2.3", b"https")
    assert claims((b"X-Forwarded-Proto", b"http"), peer=tls, port=443)[1:] == (False, 80)


@pytest.mark.parametrize(
    ("node", "read"),
    [
        (b"192.0.2.7", "192.0.2.7"),
        (b"192.0.2.7:80", "192.0.2.7"),
        (b"192.0.2.7:_p", "192.0.2.7"),
        (b"[2001:DB8::1]", "2001:db8::1"),
        (b"[2001:db8::1]:65535", "2001:db8::1"),
        (b"2001:db8::1", "2001:db8::1"),
        (b"[::ffff:192.0.2.7]", "192.0.2.7"),
        (b"::ffff:c000:207", "192.0.2.7"),
        (b"Unknown", "unknown"),
        (b"unknown:80", "unknown"),
        (b"_a.B-c_1", "_a.B-c_1"),
        (b"_a:_b", "_a"),
        (b"", None),
        (b"_", None),
        (b"_a b", None),
        (b"_" + b"a" * 65, None),
        (b"192.0.2.7:65536", None),
        (b"192.0.2.7:", None),
        (b"[192.0.2.7]", None),
        (b"[2001:db8::1", None),
        (b"[::1]x", None),
        (b"192.0.2", None),
        (b"192.0.2.07", None),
        (b"unknownx", None),
        (b"::1%lo", None),
        (b"a\nb", None),
    ],
)
def test_a_node_is_an_address_or_admits_that_it_is_none(node: bytes, read: str | None) -> None:
    assert read_node(node) == read


@pytest.mark.parametrize(
    "value",
    [
        b"for",
        b"for=",
        b"for=a",
        b'for="192.0.2.7',
        b'for="192.0.2.7"x',
        b"for =192.0.2.7",
        b"for=192.0.2.7 proto=http",
        b"for=[2001:db8::1]",
        b"for=192.0.2.7;host=a/b",
        b'for=192.0.2.7;host="a b"',
        b"for=192.0.2.7;proto=ftp",
        b"for=192.0.2.7;proto=http;PROTO=http",
        b"by=192.0.2.7",
        b"=192.0.2.7",
        b'for="192.0.2.7\n"',
        b"for=192.0.2.7\xff",
    ],
)
def test_a_malformed_forwarded_field_says_nothing(value: bytes) -> None:
    assert read_forwarded([value]) == read_forwarded([b"for=192.0.2.7", value]) == ()
    assert read_forwarded([value, b"for=192.0.2.7"]) == (Hop("192.0.2.7"),)


def test_what_the_grammar_allows_around_elements_is_allowed() -> None:
    value = b' ,;For=192.0.2.7;; secret="a\\"b;c" ;proto=http ,\t, for="\\192.0.2.8"\t'
    assert read_forwarded([value]) == (Hop("192.0.2.7", b"http"), Hop("192.0.2.8"))
    assert read_forwarded([]) == read_forwarded([b""]) == read_forwarded([b" , ;"]) == ()


def test_a_quoted_string_does_not_reach_into_the_next_field() -> None:
    assert read_forwarded([b'for=6.6.6.6;x="', b'for=192.0.2.7;y="']) == ()
    assert read_forwarded([b'for=6.6.6.6;x="', b"for=192.0.2.7"]) == (Hop("192.0.2.7"),)


STRANGE = [
    b"x",
    b"unknown",
    b'"',
    b"6.6.6.6;",
    b"\xff",
    b",",
    b"7" * MAX_BYTES,
    b",".join([b"6.6.6.6"] * 500),
]


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("lines", [True, False])
def test_nothing_that_a_client_sends_hides_what_a_proxy_has_added(strange: bytes, lines: bool) -> None:
    """Who is banned would hide behind it."""
    for field, seen in ((b"X-Forwarded-For", b"203.0.113.9"), (b"Forwarded", b"for=203.0.113.9;proto=http")):
        values = [strange, seen] if lines else [strange + b", " + seen]
        assert chain(*[(field, value) for value in values]) == ["203.0.113.9", "10.1.2.3"]


def test_of_more_hops_or_bytes_than_the_limit_the_last_are_read() -> None:
    most = [b"192.0.2.7"] * MAX_HOPS
    assert read_addresses([b",".join(most)]) == ("192.0.2.7",) * MAX_HOPS
    assert read_addresses([b"6.6.6.6", b",".join(most)]) == ("192.0.2.7",) * MAX_HOPS
    most = [b"for=192.0.2.7"] * MAX_HOPS
    assert read_forwarded(most) == read_forwarded([b"for=6.6.6.6", *most]) == (Hop("192.0.2.7"),) * MAX_HOPS
    padding = b" " * (MAX_BYTES - len("192.0.2.7"))
    assert read_addresses([b"192.0.2.7" + padding]) == ("192.0.2.7",)
    assert read_addresses([b"192.0.2.7" + padding + b" "]) == ()
    assert read_addresses([b"6.6.6.6,192.0.2.7" + padding[:-8]]) == ("6.6.6.6", "192.0.2.7")
    assert read_addresses([b"6.6.6.6,192.0.2.7" + padding[:-7]]) == ("192.0.2.7",)


def test_forwarded_is_written_as_the_rfc_wants_it() -> None:
    """R-HU-6."""
    hops = [Hop("192.0.2.7", b"https", b"a.example"), Hop("2001:db8::1", b"http", b"a:81"), Hop("unknown")]
    assert write_forwarded(hops) == (
        b'for=192.0.2.7;proto=https;host=a.example, for="[2001:db8::1]";proto=http;host="a:81", for=unknown'
    )


ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(
    lambda a: read_node(str(a).encode()) or ""
)
NODES = st.one_of(ADDRESSES, st.just("unknown"), st.from_regex(r"\A_[0-9A-Za-z._-]{1,64}\Z"))
HOSTS = st.sampled_from([b"", b"a.example", b"a.example:8080", b"[2001:db8::1]:443", b"x_y"])
HOPS = st.builds(Hop, NODES, st.sampled_from([b"", b"http", b"https"]), HOSTS)


@given(st.lists(HOPS, max_size=20).map(tuple))
def test_what_is_written_is_read_back(hops: tuple[Hop, ...]) -> None:
    assert read_forwarded([write_forwarded(hops)]) == hops


BITS = [
    b"for=",
    b"192.0.2.7",
    b"10.0.0.1",
    b'"',
    b"\\",
    b";",
    b",",
    b" ",
    b"[::1]",
    b"unknown",
    b"_x",
    b"proto=https",
]
NOISE = st.one_of(st.lists(st.sampled_from(BITS), max_size=12).map(b"".join), st.binary(max_size=60))


@given(st.lists(NOISE, max_size=3), st.lists(NOISE, max_size=3), st.lists(NOISE, max_size=2))
def test_nothing_a_peer_sends_breaks_the_chain_or_gets_into_it_unread(
    forwarded: list[bytes], addresses: list[bytes], protos: list[bytes]
) -> None:
    pairs = [*fwd(*forwarded), *xff(*addresses), *[(b"X-Forwarded-Proto", value) for value in protos]]
    found = claims(*pairs)
    assert found.hops[-1] == PEER
    assert all(hop.is_address and read_node(hop.node.encode()) == hop.node for hop in found.hops)
    assert all(hop.node in TRUSTED for hop in found.hops[1:])
    assert write_forwarded(found.hops).isascii()
    assert not {10, 13, 0} & set(write_forwarded(found.hops))
