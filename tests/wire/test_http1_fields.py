"""What fields say beyond themselves: options, upgrades, expectations, and names that mimic others."""

import pytest

from rproxy.wire.http1_fields import MAX_OPTIONS, read_facts, read_trailers
from rproxy.wire.message import BadRequest, Framing
from tests.wire.reading import request_with


def test_connection_options_of_all_lines_are_joined_in_lower_case() -> None:
    request = request_with(b"Connection: TE, ,Foo", b"connection: close,")
    assert request.connection == {b"te", b"foo", b"close"}
    assert not request.keep_alive


def test_connection_may_not_name_too_much() -> None:
    names = b", ".join(b"n%d" % i for i in range(MAX_OPTIONS))
    assert len(request_with(b"Connection: " + names).connection) == MAX_OPTIONS
    with pytest.raises(BadRequest, match="too many names"):
        read_facts(b"Connection: " + names + b",x\r\n")


@pytest.mark.parametrize(
    ("version", "lines", "upgrade"),
    [
        (b"1.1", [b"Connection: Upgrade", b"Upgrade: websocket"], b"websocket"),
        (b"1.1", [b"Connection: keep-alive, Upgrade", b"Upgrade: h2c, foo/2"], b"h2c, foo/2"),
        (b"1.1", [b"Connection: upgrade", b"Upgrade: a", b"Upgrade: b"], b"a, b"),
        (b"1.1", [b"Upgrade: websocket"], b""),
        (b"1.1", [b"Connection: upgrade"], b""),
        (b"1.0", [b"Connection: upgrade", b"Upgrade: websocket"], b""),
    ],
)
def test_an_upgrade_counts_only_if_connection_lists_it(
    version: bytes, lines: list[bytes], upgrade: bytes
) -> None:
    assert request_with(*lines, version=version).upgrade == upgrade


@pytest.mark.parametrize(
    ("version", "lines", "expects"),
    [
        (b"1.1", [b"Expect: 100-continue", b"Content-Length: 5"], True),
        (b"1.1", [b"expect: 100-Continue", b"Transfer-Encoding: chunked"], True),
        (b"1.1", [b"Expect: 100-continue"], False),
        (b"1.1", [b"Expect: 100-continue", b"Content-Length: 0"], False),
        (b"1.0", [b"Expect: 100-continue", b"Content-Length: 5"], False),
        (b"1.1", [b"Content-Length: 5"], False),
    ],
)
def test_continue_is_expected_only_before_a_body_and_in_http_1_1(
    version: bytes, lines: list[bytes], expects: bool
) -> None:
    assert request_with(*lines, version=version).expects_continue is expects


@pytest.mark.parametrize(
    "name",
    b"Content_Length transfer_encoding Content_Type X_Forwarded-For X-Forwarded_For x_forwarded_for X_Real_IP"
    b" X.Forwarded.For X~Real~IP CF_Connecting_IP keep_alive Proxy_Connection".split(),
)
def test_a_name_that_a_backend_could_take_for_another_is_refused(name: bytes) -> None:
    for read in (read_facts, read_trailers):
        with pytest.raises(BadRequest, match="mimics"):
            read(name + b": 1\r\n")


@pytest.mark.parametrize("name", [b"my_field", b"_", b"X-Forwarded-For_", b"X-Forwarded-For", b"a.b"])
def test_other_names_are_let_pass(name: bytes) -> None:
    assert read_facts(name + b": 1\r\n").headers.pairs == [(name, b"1")]


def test_no_fields_say_nothing() -> None:
    facts = read_facts(b"")
    said = (facts.host, facts.framing, facts.length, facts.expects_continue, facts.connection, facts.upgrade)
    assert said == (None, Framing.NONE, 0, False, frozenset(), b"")
    assert list(facts.headers.pairs) == []
