"""`[l4.<name>]`: what may be left out, and what a value has to be."""

import pytest
from pydantic import ValidationError

from rproxy.config.l4 import L4

LEAST = {"listen": ":5000", "upstream": [{"location": "db:5432"}]}


def messages(table):
    with pytest.raises(ValidationError) as caught:
        L4.model_validate(table)
    return [
        str(error["ctx"]["error"]) if "ctx" in error else error["type"] for error in caught.value.errors()
    ]


def test_listener_and_upstream_are_enough():
    """A plain TCP forwarder, N-7."""
    service = L4.model_validate(LEAST)
    assert (service.listen, service.server_name, service.tls, service.alpn) == (("tcp:5000",), (), None, ())
    assert (service.load_balance, service.timeout, service.connect_timeout) == (
        "least_connections",
        600.0,
        None,
    )
    assert (service.authorized_groups, service.authorized_names, service.rate_limit) == ((), (), None)
    assert service.proxy_protocol == "none"


def test_one_value_alone_stands_for_a_list():
    service = L4.model_validate(
        LEAST | {"server_name": "DB.example", "authorized_groups": "a", "authorized_names": "b", "alpn": "c"}
    )
    assert (service.server_name, service.alpn) == (("db.example",), ("c",))
    assert (service.authorized_groups, service.authorized_names) == (("a",), ("b",))


@pytest.mark.parametrize("key", ["authorized_groups", "authorized_names", "server_name", "alpn", "upstream"])
def test_an_empty_list_is_refused(key):
    """Nobody knows whether it means all or none."""
    assert messages(LEAST | {key: []}) == ["expected a list with something in it, got an empty one"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("upstream", [{"location": "db"}], '"db" has no port'),
        ("upstream", [{"location": "db", "tls": True}], '"db" has no port'),
        ("listen", "5000", '"5000" is no endpoint to listen on'),
        ("alpn", "post gres", '"post gres" is no ALPN name'),
        ("alpn", "x" * 256, f'"{"x" * 60}…" is no ALPN name'),
        ("alpn", 5, 'expected the name of a protocol such as "postgresql", got the number 5'),
        ("load_balance", "sticky", "sticky needs a cookie, and only HTTP has cookies"),
        ("timeout", "60", 'expected a duration such as "500ms", "10s", "5m", "1h" or a number of seconds,'
         ' got the text "60"'),
    ],
)  # fmt: skip
def test_what_a_value_may_not_be(key, value, message):
    assert messages(LEAST | {key: value}) == [message]


def test_a_unix_socket_needs_no_port():
    service = L4.model_validate(LEAST | {"upstream": [{"location": "unix:/run/db.sock"}]})
    assert str(service.upstream[0].location) == "unix:/run/db.sock"
