"""Locations of upstreams and places to listen on."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.endpoints import serverFromString
from twisted.internet.testing import MemoryReactor

from rproxy.config.location import (
    Kind,
    Location,
    address_v4,
    address_v6,
    listener,
    location,
    stream_listener,
)
from rproxy.config.values import Wrong

BASE = Path("/etc/rproxy")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.5:8080", "10.0.0.5", 8080), ("10.0.0.5", "10.0.0.5", 0),
        ("Web-1.internal:443", "web-1.internal", 443),
        ("[2001:DB8::1]:443", "2001:db8::1", 443),
        ("[::1]", "::1", 0), ("my_app:80", "my_app", 80),
        ("bücher.example:1", "xn--bcher-kva.example", 1), ("db.internal.:65535", "db.internal.", 65535),
        ("tcp:443", "tcp", 443), ("demo:80", "demo", 80), ("localhost", "localhost", 0),
    ],
)  # fmt: skip
def test_host_and_port(text, host, port):
    assert location(text, BASE) == Location(text, Kind.INET, host=host, port=port)


def test_unix_paths_start_from_the_folder_of_the_file():
    assert location("unix:/run/app.sock", BASE).path == "/run/app.sock"
    assert location("unix:app.sock", BASE).path == "/etc/rproxy/app.sock"
    assert location("unix:/run/a=b", BASE).kind is Kind.UNIX


def test_demo_stands_alone():
    assert location("demo:", BASE) == Location("demo:", Kind.DEMO)


@pytest.mark.parametrize(
    "text",
    ["tcp:10.0.0.1:80:timeout=3", "tcp:host=a:port=80", "unix:/run/a:timeout=5", "unix:path=/run/a",
     "onion:abc:80",
     "sendproxy:tcp:a:80", "tls:example.org:443"],
)  # fmt: skip
def test_twisted_endpoints_are_left_as_they_are(text):
    assert location(text, BASE) == Location(text, Kind.ENDPOINT, endpoint=text)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("http://x:80", '"http://x:80" is a URL, but a location is a host and a port', 'write "x:80"'),
        ("https://x/a", '"https://x/a" is a URL, but a location is a host and a port',
         'write location = "x", tls = true'),
        ("::1", '"::1" is no location', 'put brackets around an IPv6 address: "[::1]:443"'),
        ("2001:db8::5:80", '"2001:db8::5:80" is no location',
         'put brackets around an IPv6 address: "[2001:db8::5:80]:443"'),
        ("a:0", '"a:0": expected a port from 1 to 65535, got 0', ""),
        ("a:65536", '"a:65536": expected a port from 1 to 65535, got 65536', ""),
        ("10.0.0.256:80", '"10.0.0.256:80": "10.0.0.256" is no IP address', ""),
        ("[::x]:80", '"[::x]:80": "::x" is no IP address', ""),
        ("localhost:80a", '"localhost:80a": expected a port from 1 to 65535 after the colon',
         'write "host:port", "unix:/path", or a Twisted client endpoint'),
        ("/run/app.sock", '"/run/app.sock" is no location', 'write "unix:/run/app.sock" for a unix socket'),
        ("host/path", '"host/path" is no location',
         "a location has no path; replace_path of the reverse_proxy entry changes paths"),
        ("unix:", "no path after the colon", 'write "unix:/run/app.sock"'),
        ("unix:@name", '"@name": abstract unix sockets are not supported', "give the socket a path"),
        ("unix:/" + "x" * 107, f'a unix socket\'s path has at most 107 bytes, not "/{"x" * 59}…"', ""),
    ],
)  # fmt: skip
def test_what_is_no_location_says_what_to_write(text, message, hint):
    with pytest.raises(Wrong) as caught:
        location(text, BASE)
    assert (str(caught.value), caught.value.hint) == (message, hint)


@pytest.mark.parametrize(
    "value", ["", " ", "a b:80", ":80", "host:", "a:80:90 c", "a..b:80", "-", 5, [], "a" * 300, "é_:1"]
)
def test_other_things_are_refused_too(value):
    if value == "-":
        assert location(value, BASE).host == "-"  # a docker service may be called anything
        return
    with pytest.raises(ValueError):
        location(value, BASE)


def test_the_longest_unix_path_is_accepted():
    assert len(location("unix:/" + "x" * 106, BASE).path) == 107


def test_the_default_port_fills_only_what_is_open():
    assert location("a", BASE).with_port(443).port == 443
    assert location("a:80", BASE).with_port(443).port == 80
    assert location("demo:", BASE).with_port(443).port == 0


def test_a_location_is_shown_as_written_and_compared_by_place():
    one, other = location("Host:443", BASE), location("host", BASE).with_port(443)
    assert str(one) == "Host:443"
    assert one != other
    assert one.place == other.place


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("tcp:8080:interface=127.0.0.1", "tcp:8080:interface=127.0.0.1"), ("tcp:0", "tcp:0"),
        (r"tcp6:443:interface=\:\:1", r"tcp6:443:interface=\:\:1"),
        ("tcp:interface=a:port=80", "tcp:interface=a:port=80"),
        ("unix:/run/x.sock:mode=660", "unix:/run/x.sock:mode=660"),
        ("unix:x.sock", "unix:/etc/rproxy/x.sock"),
        ("systemd:domain=INET:index=0", "systemd:domain=INET:index=0"), ("fd:0", "fd:0"),
        ("acceptproxy:tcp:8443", "acceptproxy:tcp:8443"), ("plugin:x=1", "plugin:x=1"),
    ],
)  # fmt: skip
def test_endpoints_to_listen_on(text, endpoint):
    assert listener(text, BASE) == endpoint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("443", 'write "tcp:443"'), (":443", 'write "tcp:443"'),
        ("127.0.0.1:443", 'write "tcp:443:interface=127.0.0.1"'),
        ("localhost:443", 'write "tcp:443:interface=localhost"'),
        ("http://a:443", 'write "tcp:443:interface=a"'),
        ("tcp", 'write "tcp:443", "tcp:443:interface=127.0.0.1", "unix:/path" or "fd:0"'),
        ("tcp:http", ""), ("tcp:65536", ""),
        ("fd:", 'write "tcp:443", "tcp:443:interface=127.0.0.1", "unix:/path" or "fd:0"'),
        ("fd:x", 'write "fd:0"'), ("unix:@x", "give the socket a path"),
        ("haproxy:tcp:443", "use accept_proxy_protocol"),
    ],
)  # fmt: skip
def test_what_is_no_endpoint_says_what_to_write(text, hint):
    with pytest.raises(Wrong) as caught:
        listener(text, BASE)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        (":5000", "tcp:5000"), ("10.0.0.1:5000", "tcp:5000:interface=10.0.0.1"),
        ("[::1]:5000", r"tcp6:5000:interface=\:\:1"), ("unix:/x", "unix:/x"),
    ],
)  # fmt: skip
def test_services_also_take_a_colon_and_a_port(text, endpoint):
    assert stream_listener(text, BASE) == endpoint
    serverFromString(MemoryReactor(), endpoint)


@pytest.mark.parametrize("text", [":0", ":65536", "999.0.0.1:80", "5000"])
def test_services_refuse_what_is_no_port(text):
    with pytest.raises(Wrong):
        stream_listener(text, BASE)


def test_twisted_reads_back_a_path_with_special_characters():
    endpoint = serverFromString(MemoryReactor(), listener("unix:x.sock", Path("/a=b:c")))
    assert endpoint._address == "/a=b:c/x.sock"


def test_addresses_are_canonical():
    assert address_v4("127.0.0.1") == "127.0.0.1"
    assert [address_v6(text) for text in ("[::1]", "2001:DB8:0::1")] == ["::1", "2001:db8::1"]


@pytest.mark.parametrize(
    ("read", "text", "hint"),
    [
        (address_v4, "::1", "IPv6 addresses belong in listen_address_v6"),
        (address_v4, "localhost", 'write "127.0.0.1" or "0.0.0.0"'),
        (address_v4, "127.0.0.1:80", "IPv6 addresses belong in listen_address_v6"),
        (address_v6, "127.0.0.1", "IPv4 addresses belong in listen_address_v4"),
        (address_v6, "[::1", 'write "::1" or "::"'),
    ],
)
def test_what_is_no_address_is_refused(read, text, hint):
    with pytest.raises(Wrong) as caught:
        read(text)
    assert caught.value.hint == hint


@given(st.text() | st.from_regex(r"[a-z\[\]0-9:/.=\\]{0,20}", fullmatch=True))
def test_any_text_is_a_place_or_a_refusal(text):
    for read in (location, listener, stream_listener):
        try:
            found = read(text, BASE)
        except ValueError:
            continue
        if isinstance(found, Location) and found.kind is Kind.INET:
            assert found.host
            assert 0 <= found.port <= 65535
        assert str(found)
