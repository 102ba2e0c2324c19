"""The examples of rpxy's introduction that route by path do what it promises."""

from __future__ import annotations

import random
import socket

import pytest

from tests.e2e.conftest import Peer, Serving
from tests.e2e.peers import nginx, self_signed
from tests.e2e.programs import Programs, environment, free_port
from tests.e2e.test_rpxy_examples import Front, showing

BY_PATH = """\
listen_port_tls = 443

[apps.app1]
server_name = 'app1.example.com'
tls = { https_redirection = true, tls_cert_path = 'server.crt', tls_cert_key_path = 'server.key' }

[[apps.app1.reverse_proxy]]
upstream = [
  { location = 'default.backend.local' }
]

[[apps.app1.reverse_proxy]]
path = '/path'
upstream = [
  { location = 'path.backend.local' }
]

[[apps.app1.reverse_proxy]]
path = '/path/another'
replace_path = '/path'
upstream = [
  { location = 'another.backend.local' }
]
"""
BOTH_PORTS = "listen_port = 80\n" + BY_PATH
LOCATIONS = ("default.backend.local", "path.backend.local", "another.backend.local")
TO = {name: f"http://{name}.backend.local" for name in ("default", "path", "another")}

ROUTED = {
    "/path/to?query=ok": TO["path"] + "/path/to?query=ok",
    "/path/another/xx?query=ng": TO["another"] + "/path/xx?query=ng",
    "/": TO["default"] + "/",
    "/elsewhere?a=/path": TO["default"] + "/elsewhere?a=/path",
    "/path": TO["path"] + "/path",
    "/path/": TO["path"] + "/path/",
    "/path?/another": TO["path"] + "/path?/another",
    "/path/anotherx": TO["path"] + "/path/anotherx",
    "/path/another": TO["another"] + "/path",
    "/path/another?x": TO["another"] + "/path?x",
    "/path/another/": TO["another"] + "/path/",
    "/path/another//x": TO["another"] + "/path//x",
    "/path/another/path/another": TO["another"] + "/path/path/another",
    "/pathx": TO["default"] + "/pathx",
    "/PATH/another": TO["default"] + "/PATH/another",
    "/%70ath": TO["default"] + "/%70ath",
    "//path": TO["default"] + "//path",
}
"""Requests, and where they arrive. The first two stand in the introduction."""


def backends(programs: Programs, peer: Peer) -> dict[str, object]:
    """Three servers of an nginx that answer with their name in the example and what they were asked for."""
    ports = {name: free_port() for name in LOCATIONS}
    servers = "".join(
        f'server {{ listen 127.0.0.1:{port}; return 200 "http://{name}$request_uri\\n"; }}'
        for name, port in ports.items()
    )
    nginx(programs, peer("nginx"), servers, ("127.0.0.1", max(ports.values())))
    return {name: f"127.0.0.1:{port}" for name, port in ports.items()}


def test_the_longest_prefix_gets_a_request_as_the_introduction_has_it(programs: Programs, peer: Peer) -> None:
    self_signed(programs.folder, "app1.example.com")
    front = Front(programs, peer, BY_PATH, backends(programs, peer))
    for path in list(ROUTED)[:2]:
        assert front.curl(f"https://app1.example.com{path}") == ROUTED[path] + "\n"


def test_the_longest_prefix_gets_a_request(programs: Programs, peer: Peer) -> None:
    self_signed(programs.folder, "app1.example.com")
    front = Front(programs, peer, BOTH_PORTS, backends(programs, peer))
    urls = [f"https://app1.example.com{path}" for path in ROUTED]
    assert front.curl(*urls).splitlines() == list(ROUTED.values())
    moved = front.get("http://app1.example.com/path/another/xx?query=ng")
    there = f"https://app1.example.com:{front.secure}/path/another/xx?query=ng"
    assert moved.got("Location") == [there], "as it was requested, before any path is replaced"


def test_where_every_entry_has_a_path_other_paths_are_rejected(programs: Programs, peer: Peer) -> None:
    self_signed(programs.folder, "app1.example.com")
    text = BOTH_PORTS.replace(
        "[[apps.app1.reverse_proxy]]\n", "[[apps.app1.reverse_proxy]]\npath = '/d'\n", 1
    )
    front = Front(programs, peer, text, backends(programs, peer))
    for path in ("/", "/elsewhere", "/pathx", "/D"):
        assert front.get(f"https://app1.example.com{path}").status == 404
    assert front.get("https://app1.example.com/path").status == 200


SUBAPPS = """\
listen_port = 80

[apps.app]
server_name = 'app.example.com'

[[apps.app.reverse_proxy]]
path = '/subapp1'
replace_path = '/'
upstream = [ { location = 'subapp1.local' } ]

[[apps.app.reverse_proxy]]
path = '/subapp2'
replace_path = '/'
upstream = [ { location = 'subapp2.local' } ]

[[apps.app.reverse_proxy]]
path = '/subapp3'
replace_path = '/'
upstream = [ { location = 'subapp3.local' } ]
"""
OTHER_PREFIXES = """
[apps.more]
server_name = 'more.example.com'

[[apps.more.reverse_proxy]]
path = '/foo/'
upstream = [ { location = 'subapp1.local' } ]

[[apps.more.reverse_proxy]]
path = '/a'
replace_path = '/b/'
upstream = [ { location = 'subapp2.local' } ]

[[apps.more.reverse_proxy]]
replace_path = '/api'
upstream = [ { location = 'subapp3.local' } ]
"""


def test_the_prefix_of_a_subapp_is_taken_away(programs: Programs, peer: Peer, serving: Serving) -> None:
    names = ("subapp1", "subapp2", "subapp3")
    places = {f"{name}.local": f"127.0.0.1:{serving(showing(name)).port}" for name in names}
    front = Front(programs, peer, SUBAPPS + OTHER_PREFIXES, places)
    for url, backend, asked in (
        ("app.example.com/subapp1", "subapp1", "/"),
        ("app.example.com/subapp1/", "subapp1", "/"),
        ("app.example.com/subapp2/x/?y=/subapp3", "subapp2", "/x/?y=/subapp3"),
        ("app.example.com/subapp3?q=1", "subapp3", "/?q=1"),
        ("app.example.com/subapp3//x", "subapp3", "//x"),
        ("more.example.com/foo", "subapp1", "/foo"),
        ("more.example.com/foo/x", "subapp1", "/foo/x"),
        ("more.example.com/foox", "subapp3", "/api/foox"),
        ("more.example.com/a", "subapp2", "/b/"),
        ("more.example.com/a/x", "subapp2", "/b/x"),
        ("more.example.com/", "subapp3", "/api/"),
    ):
        answer = front.get(f"http://{url}")
        assert (answer.backend, answer.asked) == (backend, f"GET {asked} HTTP/1.1"), url
        assert answer.seen("X-Original-URI") == ["/" + url.partition("/")[2]]
    for path in ("/", "/subapp4", "/subapp10", "/x/subapp1"):
        assert front.get(f"http://app.example.com{path}").status == 404


def test_a_location_without_a_port_is_on_that_of_its_protocol(programs: Programs, peer: Peer) -> None:
    host = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"
    try:
        socket.create_server((host, 443)).close()
    except OSError as problem:
        pytest.skip(f"low ports cannot be listened on: {problem}")
    made = self_signed(programs.folder / "backend", host)
    server = (
        f"server {{ listen {host}:80; listen {host}:443 ssl; ssl_certificate {made.certificate};"
        f' ssl_certificate_key {made.key}; return 200 "$scheme on $server_port\\n"; }}'
    )
    nginx(programs, peer("nginx"), server, (host, 443))
    tls = "{ location = 'subapp2.local', tls = true }"
    text = SUBAPPS.replace("{ location = 'subapp2.local' }", tls)
    places = dict.fromkeys(("subapp1.local", "subapp2.local", "subapp3.local"), host)
    front = Front(programs, peer, text, places, env=environment(SSL_CERT_FILE=str(made.certificate)))
    assert front.curl("http://app.example.com/subapp1") == "http on 80\n"
    assert front.curl("http://app.example.com/subapp2") == "https on 443\n"
