"""HTTP/2 with programs that are not ours: curl, nghttp, h2load and Chromium, in clear text and inside TLS."""

from __future__ import annotations

import base64
import hashlib
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.e2e.bulk_server import BLOCK, PATTERN
from tests.e2e.conftest import Peer
from tests.e2e.fronts import SCHEMES, Front, Growth, Listening, backend, location
from tests.e2e.http2_wire import Answering
from tests.e2e.programs import Programs, run

MIB = 100
"""Of what is moved in each direction."""
RESOURCES = 200
ROUTE = '[[apps.site.reverse_proxy]]\npath = "{}"\nreplace_path = "/"\nupstream = [{}]\n'

schemes = pytest.mark.parametrize("scheme", SCHEMES)


class Scene(NamedTuple):
    """A proxy, and three of the four backends behind it."""

    front: Front
    many: Listening
    chat: Listening
    origin: Answering

    def curl(self, scheme: str, path: str, *more: object) -> str:
        """What curl says in HTTP/2; that it fails is a failure."""
        version = "--http2" if scheme == "https" else "--http2-prior-knowledge"
        trust = ["--cacert", self.front.authority]
        return told("curl", "-sS", version, *trust, *more, self.front.url(scheme, path))


@pytest.fixture(scope="module")
def scene(lasting_programs: Programs) -> Iterator[Scene]:
    many, bulk, chat = (
        backend(lasting_programs, name) for name in ("many_server", "bulk_server", "websocket_server")
    )
    origin = Answering()
    routes = {"/bulk": location(bulk.port), "/ws": location(chat.port), "/seen": origin.backend.location}
    entries = "".join(ROUTE.format(*route) for route in routes.items())
    front = Front(lasting_programs, location(many.port), entry=entries, more="max_concurrent_streams = 100")
    yield Scene(front, many, chat, origin)
    origin.end()


def told(*words: object, status: int = 0) -> str:
    """All that a program says, once it has ended with this status."""
    done = run(words, seconds=60)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


# -- curl


def test_curl_agrees_on_a_version(peer: Peer, scene: Scene) -> None:
    peer("curl")
    words = ["-w", " %{http_version}"]
    assert scene.curl("http", "/a", *words) == "/a 2"
    assert scene.curl("https", "/a", *words) == "/a 2"
    assert scene.curl("https", "/a", *words, "--http1.1") == "/a 1.1"
    assert scene.curl("https", "/a", *words, "--tls-max", "1.2") == "/a 2"


def test_nobody_is_upgraded(peer: Peer, scene: Scene) -> None:
    """RFC 9113 has no Upgrade to h2c any more (§3.1): what offers it is answered in HTTP/1.1."""
    peer("curl")
    peer("nghttp")
    url = scene.front.url("http", "/upgrade")
    assert told("curl", "-sS", "--http2", "-w", " %{http_version}", url) == "/upgrade 1.1"
    assert "HTTP Upgrade failed" in told("nghttp", "-nu", url)
    scene.front.proxy.says("GET /upgrade HTTP/1.1 -- 200 OK", times=2)


@schemes
def test_a_head_has_no_body(peer: Peer, scene: Scene, scheme: str) -> None:
    peer("curl")
    said = scene.curl(scheme, "/a", "--head").splitlines()
    assert [line.strip() for line in said] == ["HTTP/2 200", "content-length: 2", ""]


def test_a_connection_goes_on_after_each_answer(peer: Peer, scene: Scene) -> None:
    """Inside TLS: with prior knowledge, curl 7.88 fails at every second request, whoever the server is."""
    peer("curl")
    more = [scene.front.url("https", path) for path in ("/interim", "/trailers", "/nothing", "/b")]
    said = scene.curl("https", "/a", "-w", " %{num_connects}\n", *more)
    assert said.split() == ["/interim", "1", "body", "0", "/nothing", "0", "/b", "0", "/a", "0"]


@schemes
def test_interim_answers_and_trailers_come_through(peer: Peer, scene: Scene, scheme: str) -> None:
    peer("curl")
    assert re.findall("< HTTP/2 ([0-9]+)", scene.curl(scheme, "/interim", "-v")) == ["103", "200"]
    said = scene.curl(scheme, "/trailers", "-v")
    assert (said[:4], said.index("< HTTP/2 200") < said.index("< x-sum: 17")) == ("body", True)


@schemes
def test_a_body_waits_for_100_continue(peer: Peer, scene: Scene, scheme: str, tmp_path: Path) -> None:
    peer("curl")
    (tmp_path / "body").write_bytes(PATTERN)
    more = ["-v", "-T", tmp_path / "body", "-H", "Expect: 100-continue"]
    said = scene.curl(scheme, "/bulk/x", *more)
    assert re.findall("< HTTP/2 ([0-9]+)", said) == ["100", "200"]
    assert f"{BLOCK} bytes, whole" in said


@schemes
def test_a_hundred_megabytes_pass_whole_and_are_not_held(
    peer: Peer, scene: Scene, scheme: str, tmp_path: Path
) -> None:
    peer("curl")
    file = tmp_path / "file"
    with Growth(scene.front.proxy) as growth:
        scene.curl(scheme, f"/bulk/length/{MIB * BLOCK}", "-o", file)
        assert file.stat().st_size == MIB * BLOCK
        with file.open("rb") as content:
            assert all(content.read(BLOCK) == PATTERN for _ in range(MIB))
        assert scene.curl(scheme, "/bulk/x", "-T", file) == f"{MIB * BLOCK} bytes, whole"
    assert growth.by < Growth.MOST


# -- nghttp


@schemes
def test_nghttp_is_content(peer: Peer, scene: Scene, scheme: str) -> None:
    """Its streams depend on each other, its frames are padded, and it has more to ask than it may at once."""
    peer("nghttp")
    words = ["nghttp", "-nv", "-p", 200, "-b", 255, "-m", 300, "--no-push"]
    said = told(*words, scene.front.url(scheme, "/n"))
    assert said.count(":status: 200") == 300
    assert said.count("send PRIORITY frame") > 3
    assert "dep_stream_id=11, weight=200" in said
    assert not re.search("(?<!NO)_ERROR|RST_STREAM|not processed|timed out", said), said[-2000:]


@schemes
def test_nghttp_keeps_its_windows_and_its_table_small(peer: Peer, scene: Scene, scheme: str) -> None:
    peer("nghttp")
    words = ["nghttp", "--stat", "-nw14", "-W14", "--header-table-size=0", "--encoder-header-table-size=0"]
    said = told(*words, scene.front.url(scheme, f"/bulk/chunked/{4 * BLOCK}"))
    assert re.search(r" 200 +4M /bulk", said), said


def test_nghttps_trailers_reach_the_peer(peer: Peer, scene: Scene, tmp_path: Path) -> None:
    peer("nghttp")
    (tmp_path / "body").write_bytes(b"something")
    more = ["--trailer", "x-sum: 9", "--no-content-length", "-d", tmp_path / "body"]
    assert "some content" in told("nghttp", *more, scene.front.url("http", "/seen/trailed"))
    (asked,) = [each for each in scene.origin.asked if each.target == b"/trailed"]
    assert asked.body == b"9\r\nsomething\r\n0\r\nx-sum: 9\r\n\r\n"


# -- h2load


@schemes
def test_a_thousand_streams_at_a_time_do_not_stall(peer: Peer, scene: Scene, scheme: str) -> None:
    peer("h2load")
    said = told("h2load", "-n", 20_000, "-c", 10, "-m", 100, scene.front.url(scheme, "/load"))
    found = re.search(r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said)
    assert found is not None
    assert found.groups() == ("20000", "20000", "0", "0", "0")
    assert "status codes: 20000 2xx" in said
    assert f"Application protocol: {'h2' if scheme == 'https' else 'h2c'}" in said


# -- a browser


def key_of(front: Front) -> str:
    """The hash of the certificate's key, by which Chromium can be told to trust it."""
    with front.connect("https") as client:
        assert isinstance(client, ssl.SSLSocket)
        shown = x509.load_der_x509_certificate(client.getpeercert(binary_form=True) or b"")
    key = shown.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(key).digest()).decode("ascii")


def test_a_browser_loads_a_page_over_one_connection(
    peer: Peer, scene: Scene, programs: Programs, tmp_path: Path
) -> None:
    """Its WebSocket too, which ends with the code that the page has said (RFC 8441)."""
    address = f"https://a.test:{scene.front.ports['https']}/page/{RESOURCES}"
    words = [peer("chromium"), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    words += ["--no-first-run", "--disable-background-networking", f"--user-data-dir={tmp_path}/profile"]
    words += ["--host-resolver-rules=MAP * 127.0.0.1", "--no-proxy-server"]
    words += [f"--ignore-certificate-errors-spki-list={key_of(scene.front)}", address]
    browser = programs.start(words, "chromium")
    loaded = f"/loaded/{RESOURCES}/hello"
    scene.front.proxy.says(loaded, seconds=30)
    scene.chat.program.says("/echo/page ended with 4001 enough")
    browser.end()
    lines = [line for line in scene.front.proxy.log.splitlines() if "HeadlessChrome" in line]
    parts = [re.search(r"<- (\S+) -- GET (/\w+)\S* (HTTP/[0-9.]+) ", line) for line in lines]
    asked = [part.groups() for part in parts if part and part[2] in ("/piece", "/ws", "/loaded")]
    assert [path for _, path, _ in asked].count("/piece") == RESOURCES
    assert {path for _, path, _ in asked} == {"/piece", "/ws", "/loaded"}
    assert len({client for client, _, _ in asked}) == 1
    assert {version for _, _, version in asked} == {"HTTP/2.0"}
