"""HTTP/2 by prior knowledge with programs that are not ours: curl, nghttp and h2load."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import Peer
from tests.e2e.fronts import Front, location
from tests.e2e.peers import nginx
from tests.e2e.programs import Programs, free_port

schemes = pytest.mark.parametrize("scheme", ["http"])
PRIOR = {"http": ["--http2-prior-knowledge"]}


@pytest.fixture(scope="module")
def front(lasting_programs: Programs, peer: Peer) -> Front:
    """A proxy before nginx, which takes uploads and has a large file."""
    folder, port = lasting_programs.folder, free_port()
    (folder / "large").write_bytes(bytes(range(256)) * 40000)
    server = f"""server {{
        listen 127.0.0.1:{port} backlog=1024; root {folder};
        keepalive_requests 1000000; client_max_body_size 0;
        location = /small {{ return 200 "small"; }}
        location /put/ {{ dav_methods PUT; create_full_put_path on; }}
    }}"""
    nginx(lasting_programs, peer("nginx"), server, ("127.0.0.1", port))
    return Front(lasting_programs, location(port))


def ran(*words: object) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@schemes
def test_curl_speaks_it(peer: Peer, front: Front, scheme: str) -> None:
    peer("curl")
    words = ["curl", "-sS", *PRIOR[scheme], "-w", " %{http_version}"]
    assert ran(*words, front.url(scheme, "/small")) == "small 2"
    assert ran(*words, "-o", "/dev/null", front.url(scheme, "/large")) == " 2"
    assert ran(*words, "--head", "-o", "/dev/null", front.url(scheme, "/nothing")) == " 2"


@schemes
def test_large_bodies_go_both_ways(peer: Peer, front: Front, scheme: str, tmp_path: Path) -> None:
    peer("curl")
    whole, got = bytes(range(256)) * 40000, tmp_path / "got"
    (tmp_path / "sent").write_bytes(whole)
    ran("curl", "-sSf", *PRIOR[scheme], "-T", tmp_path / "sent", front.url(scheme, f"/put/{scheme}"))
    ran("curl", "-sSf", *PRIOR[scheme], "-o", got, front.url(scheme, f"/put/{scheme}"))
    assert got.read_bytes() == whole


def test_a_thousand_streams_over_ten_connections_do_not_stall(peer: Peer, front: Front) -> None:
    peer("h2load")
    said = ran("h2load", "-n", 4000, "-c", 10, "-m", 100, front.url("http", "/small"))
    found = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", said)
    assert found is not None
    assert found.groups() == ("4000", "0", "0")


def test_nghttp_is_content_with_us(peer: Peer, front: Front) -> None:
    peer("nghttp")
    said = ran("nghttp", "-nv", front.url("http", "/small"))
    assert ":status: 200" in said
    assert "PROTOCOL_ERROR" not in said


def test_each_stream_has_its_line_in_the_log(peer: Peer, front: Front) -> None:
    peer("curl")
    ran("curl", "-sS", *PRIOR["http"], front.url("http", "/small?logged"))
    front.proxy.says("/small?logged HTTP/2.0 -- 200 OK")
