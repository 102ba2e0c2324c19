"""`-r rproxy` for programs that know nothing of it: echo, AMP with STARTTLS, a web server with threads."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import Peer
from tests.e2e.peers import nginx, self_signed
from tests.e2e.programs import TWIST, TWISTD, Program, Programs, environment, free_port, run
from tests.e2e.streams import all_of

HEAD = """
import sys
from twisted.application import internet, service
from twisted.internet import endpoints, protocol, reactor
print("reactor:", type(reactor).__name__, flush=True)
application = service.Application("plain")

def serve(where, factory):
    internet.StreamServerEndpointService(
        endpoints.serverFromString(reactor, where), factory
    ).setServiceParent(application)
"""
ECHO = """
from twisted.protocols.wire import Echo
serve("tcp:{port}:interface=127.0.0.1", protocol.Factory.forProtocol(Echo))
"""


def started(programs: Programs, reactor: str, text: str, **values: object) -> tuple[Program, int]:
    """A program in a .tac file, with that reactor; and its port."""
    port = free_port()
    file = programs.folder / "plain.tac"
    file.write_text(HEAD + text.format(port=port, **values))
    words = [*TWISTD, "-n", "--pidfile=", "-r", reactor, "-y", file]
    program = programs.start(words, "plain", cwd=programs.folder)
    program.says("starting on")
    return program, port


def ends(program: Program) -> None:
    program.signal(signal.SIGTERM)
    assert program.ended() in (0, -signal.SIGTERM)
    assert "Traceback" not in program.log


@pytest.mark.parametrize(("reactor", "name"), [("rproxy", "ProxyReactor"), ("epoll", "EPollReactor")])
def test_an_echo_server_runs_on_the_reactor_that_is_named(
    programs: Programs, reactor: str, name: str
) -> None:
    program, port = started(programs, reactor, ECHO)
    program.says(f"reactor: {name}")
    octets = os.urandom(1_000_000)
    with socket.create_connection(("127.0.0.1", port)) as stream:
        stream.settimeout(10)
        stream.sendall(octets[:500_000])
        got = _exactly(stream, 500_000)
        stream.sendall(octets[500_000:])
        assert got + _exactly(stream, 500_000) == octets
    ends(program)


def _exactly(stream: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        chunk = stream.recv(1 << 20)
        assert chunk, "it ended early"
        got += chunk
    return got


def test_it_is_among_the_reactors_that_are_listed() -> None:
    assert "rproxy's event loop" in run([*TWISTD, "--help-reactors"]).stdout
    assert '"rproxy"' in run([*TWIST, "--help"]).stdout


AMP = """
from twisted.internet import ssl
from twisted.protocols import amp

class Sum(amp.Command):
    arguments = [(b"a", amp.Integer()), (b"b", amp.Integer())]
    response = [(b"total", amp.Integer())]

class Adding(amp.AMP):
    @Sum.responder
    def add(self, a, b):
        return dict(total=a + b)

    @amp.StartTLS.responder
    def begin(self):
        return dict(tls_localCertificate=own)

own = ssl.PrivateCertificate.loadPEM(open({pem!r}).read())
serve("tcp:{port}:interface=127.0.0.1", protocol.Factory.forProtocol(Adding))

def asked(amp_):
    def told(answer):
        print("total:", answer["total"], "over", type(amp_.transport).__name__, flush=True)
    begun = amp_.callRemote(amp.StartTLS, tls_verifyAuthorities=[ssl.Certificate.loadPEM(own.dumpPEM())])
    return begun.addCallback(lambda _: amp_.callRemote(Sum, a=40, b=2)).addCallback(told)

def failed(failure):
    print("failed:", failure.value, flush=True)

client = endpoints.clientFromString(reactor, "tcp:127.0.0.1:{port}")
ask = lambda: endpoints.connectProtocol(client, amp.AMP()).addCallback(asked).addErrback(failed)
reactor.callWhenRunning(reactor.callLater, 0, ask)
"""


def test_amp_starts_tls_on_both_ends_of_it(programs: Programs, tmp_path: Path) -> None:
    own = self_signed(tmp_path / "own", "a.test")
    program, _ = started(programs, "rproxy", AMP, pem=str(own.both))
    program.says("total: 42 over SecureClient")
    ends(program)


WEB = """
from twisted.internet import utils, threads
from twisted.web import resource, server, static

class Slow(resource.Resource):
    isLeaf = True

    def render_GET(self, request):
        def write(text):
            request.write(text)
            request.finish()
        if request.postpath == [b"thread"]:
            threads.deferToThread(lambda: b"in a thread").addCallback(write)
        else:
            utils.getProcessOutput(sys.executable, ["-c", "print('a process', end='')"]).addCallback(write)
        return server.NOT_DONE_YET

    def render_POST(self, request):
        return b"%d" % len(request.content.read())

root = resource.Resource()
root.putChild(b"file", static.File({file!r}))
root.putChild(b"slow", Slow())
serve("ssl:{port}:interface=127.0.0.1:privateKey={key}:certKey={certificate}", server.Site(root))
serve("unix:{path}", server.Site(root))
"""


@pytest.fixture
def web(programs: Programs, tmp_path: Path, short_path: Path) -> tuple[Program, int, Path]:
    own = self_signed(tmp_path / "own", "a.test")
    (tmp_path / "file.bin").write_bytes(bytes(range(256)) * 40_000)
    values = {"key": own.key, "certificate": own.certificate, "path": short_path / "s"}
    return *started(programs, "rproxy", WEB, file=str(tmp_path / "file.bin"), **values), short_path / "s"


def test_a_web_server_serves_files_bodies_threads_and_processes(
    web: tuple[Program, int, Path], tmp_path: Path, peer: Peer
) -> None:
    program, port, path = web
    (tmp_path / "body").write_bytes(b"x" * 3_000_000)
    for place in ([f"https://127.0.0.1:{port}"], ["--unix-socket", path, "http://a.test"]):
        *options, site = place
        curl = [peer("curl"), "--silent", "--insecure", "--max-time", "20", *options]
        done = subprocess.run([*curl, f"{site}/file"], capture_output=True, check=True)
        assert done.stdout == bytes(range(256)) * 40_000
        assert run([*curl, f"{site}/slow/thread"]).stdout == "in a thread"
        assert run([*curl, f"{site}/slow/process"]).stdout == "a process"
        assert run([*curl, "--data-binary", f"@{tmp_path / 'body'}", f"{site}/slow"]).stdout == "3000000"
    ends(program)


def test_one_who_speaks_no_tls_and_one_who_leaves_disturb_nobody(web: tuple[Program, int, Path]) -> None:
    program, port, _ = web
    with socket.create_connection(("127.0.0.1", port)) as stream:
        stream.sendall(b"GET / HTTP/1.0\r\n\r\n")
        stream.settimeout(10)
        all_of(stream)
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port)) as stream:
            stream.sendall(b"\x16\x03\x01")
    context = ssl._create_unverified_context()
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain) as stream,
    ):
        stream.sendall(b"GET /slow/thread HTTP/1.0\r\n\r\n")
        assert all_of(stream).endswith(b"in a thread")
    ends(program)


def test_a_program_may_install_it_by_name(tmp_path: Path) -> None:
    program = (
        "from twisted.application.reactors import installReactor\n"
        "installReactor('rproxy')\n"
        "from twisted.internet import reactor\n"
        "reactor.callWhenRunning(reactor.stop)\n"
        "reactor.run()\n"
        "print(type(reactor).__name__)\n"
    )
    (tmp_path / "program.py").write_text(program)
    done = run([TWISTD[0], tmp_path / "program.py"], env=environment())
    assert done.stdout == "ProxyReactor\n", done.stderr


BEHIND_TLS = """
listen = ["ssl:{port}:interface=127.0.0.1:privateKey={key}:certKey={certificate}"]
[apps.a]
server_name = "localhost"
reverse_proxy = [{{ upstream = [{{ location = "127.0.0.1:{behind}" }}] }}]
"""


@pytest.mark.parametrize("reactor", ["rproxy", "epoll"])
@pytest.mark.parametrize("how", ["close", "keep-alive"])
def test_the_proxy_answers_in_full_behind_a_tls_endpoint_of_twisteds(
    programs: Programs, tmp_path: Path, peer: Peer, reactor: str, how: str
) -> None:
    own, port, behind = self_signed(tmp_path / "own", "localhost"), free_port(), free_port()
    server = f"server {{ listen 127.0.0.1:{behind}; location / {{ return 200 answer; }} }}"
    nginx(programs, peer("nginx"), server, ("127.0.0.1", behind))
    file = tmp_path / "rproxy.toml"
    file.write_text(BEHIND_TLS.format(port=port, key=own.key, certificate=own.certificate, behind=behind))
    words = [*TWISTD, "-n", "--pidfile=", "-r", reactor, "rproxy", "--config", file]
    proxy = programs.start(words, "behind-tls")
    proxy.says("rproxy listens on")
    curl = [peer("curl"), "--silent", "--insecure", "--no-alpn", "--max-time", "20"]
    asked = run([*curl, "--header", f"Connection: {how}", f"https://localhost:{port}/"])
    assert (asked.returncode, asked.stdout) == (0, "answer")
    ends(proxy)
