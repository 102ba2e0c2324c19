"""A folder's owner serves a name over HTTP; what is wrong with the socket has httpdir's statuses."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from rproxy.errors import NoPeer, PeerTimeout, PeerUnreachable, Refusal, UnknownHost
from rproxy.interfaces import Arrival
from rproxy.policy.paths import PathTable
from rproxy.services.hosts_http import HttpHosts, refusal_of
from rproxy.sites import Site, Sites
from rproxy.upstream.http_client import HttpPeer
from rproxy.wire.address import Inet
from rproxy.wire.hostname import hashed
from rproxy.wire.message import BadRequest, BadResponse
from tests.wire.reading import request_of

SITE = Site("hosts", PathTable({}))


def peer_of(hosts: HttpHosts, name: str) -> HttpPeer:
    found = hosts.find(name)
    assert found is not None
    (peer,) = found[1].group.peers
    assert isinstance(peer, HttpPeer)
    return peer


def test_a_name_leads_to_its_socket(tmp_path: Path) -> None:
    (tmp_path / "a.test").mkdir()
    peer = peer_of(HttpHosts(tmp_path, SITE), "a.test")
    assert peer.targets() == ((socket.AF_UNIX, f"{tmp_path}/a.test/http-socket"),)
    assert peer.authority == b"a.test"
    assert peer.keep == 0, "the next request looks again"


def test_a_name_without_a_folder_is_nobodys_and_nothing_is_remembered(tmp_path: Path) -> None:
    hosts = HttpHosts(tmp_path, SITE)
    assert hosts.find("a.test") is None
    (tmp_path / "a.test").mkdir()
    assert peer_of(hosts, "a.test") is not peer_of(hosts, "a.test")
    (tmp_path / "a.test").rmdir()
    assert hosts.find("a.test") is None


def routed(directory: Path, request: bytes) -> bytes:
    """The socket and the path that a request leads to."""
    client = Inet("192.0.2.7", 1)
    sites = Sites({}, {}, folder=HttpHosts(directory, SITE))
    _, route, _ = sites.route(request_of(request), Arrival("tcp:80", client, client), False)
    return route.group.peers[0].name.encode() + b" " + route.target(request_of(request).path)


@pytest.mark.parametrize("host", ["a_b.test", "..", "-a.test", "a..test"])
def test_a_folder_called_as_no_host_can_be_is_a_bad_request(tmp_path: Path, host: str) -> None:
    """D-2."""
    (tmp_path / host).mkdir(exist_ok=True)
    with pytest.raises(BadRequest):
        routed(tmp_path, f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())


def test_a_question_about_the_whole_server_goes_to_the_socket(tmp_path: Path) -> None:
    (tmp_path / "a.test").mkdir()
    asked = routed(tmp_path, b"OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert asked == f"unix:{tmp_path}/a.test/http-socket *".encode()


def test_folders_can_be_called_by_hash(tmp_path: Path) -> None:
    (tmp_path / hashed("a.test")).mkdir()
    peer = peer_of(HttpHosts(tmp_path, SITE, hash_names=True), "a.test")
    assert peer.name == f"unix:{tmp_path}/{hashed('a.test')}/http-socket"


def test_the_path_goes_on_as_it_is_and_times_are_the_files(tmp_path: Path) -> None:
    (tmp_path / "a.test").mkdir()
    hosts = HttpHosts(
        tmp_path, SITE, connect_timeout=1.0, response_timeout=2.0, body_timeout=3.0, tunnel_idle=4.0
    )
    found = hosts.find("a.test")
    assert found is not None
    site, route = found
    assert site is SITE
    assert route.target(b"//x?y") == b"//x?y"
    assert (route.connect_timeout, route.response_timeout) == (1.0, 2.0)
    assert (route.body_timeout, route.tunnel_idle) == (3.0, 4.0)


@pytest.mark.parametrize(
    ("refusal", "kind", "status"),
    [
        (PeerUnreachable("", errno.ENOENT), UnknownHost, 404),
        (PeerUnreachable("", errno.ENOTDIR), UnknownHost, 404),
        (PeerUnreachable("", errno.EACCES), NoPeer, 503),
        (PeerUnreachable("", errno.ECONNREFUSED), NoPeer, 503),
        (PeerUnreachable("", errno.ENAMETOOLONG), PeerUnreachable, 502),
        (PeerUnreachable("", errno.EMFILE), PeerUnreachable, 502),
        (PeerTimeout(""), PeerTimeout, 504),
        (BadResponse(""), BadResponse, 502),
    ],
)
def test_each_trouble_has_its_status(refusal: Refusal, kind: type[Refusal], status: int) -> None:
    told = refusal_of(refusal)
    assert (type(told), told.status) == (kind, status)


def test_a_dead_host_is_no_news(tmp_path: Path) -> None:
    (tmp_path / "a.test").mkdir()
    peer = peer_of(HttpHosts(tmp_path, SITE), "a.test")
    peer.failed(0.0, "refused")
    assert peer.down_until < 0
