"""What rpxy's users have besides apps: logs, limits, PROXY headers, reloading; and what is to come."""

from __future__ import annotations

import re
import socket
import time
from contextlib import suppress

from rproxy.config.notyet import NOT_YET
from tests.e2e.conftest import Peer, Serving
from tests.e2e.peers import nginx, self_signed
from tests.e2e.programs import Programs, environment, free_port, until
from tests.e2e.streams import all_of, connect
from tests.e2e.test_rpxy_examples import CLEARTEXT, Front, refusal, showing

WHOLE = """\
listen_port = 80
listen_port_tls = 443
listen_ipv6 = false
tcp_listen_backlog = 1024
max_clients = 512
default_app = 'SECOND'

[apps]

[apps.first]
server_name = 'first.example.com' # a comment
tls = { https_redirection = true, tls_cert_path = './server.crt', tls_cert_key_path = './server.key' }

[[apps.first.reverse_proxy]]
upstream = [
  { location = 'www.example.net', tls = true },
  { location = 'www.example.org', tls = true }, # and another one
]
load_balance = "round_robin"
upstream_options = [
  "keep_original_host",
  "force_http11_upstream",
]

[[apps.first.reverse_proxy]]
path = '/maps'
replace_path = "/replacing/path1"
upstream = [{ location = 'maps.example.net', tls = true }]

[apps.second]
server_name = 'second.example.com'
reverse_proxy = [{ upstream = [{ location = 'second.example.net', tls = true }] }]

[experimental]
ignore_sni_consistency = false
connection_handling_timeout = 0
"""


def test_a_file_with_a_bit_of_everything(programs: Programs, peer: Peer) -> None:
    made = self_signed(programs.folder, "first.example.com", "localhost")
    names = ("www.example.net", "www.example.org", "maps.example.net", "second.example.net")
    places = {name: free_port() for name in names}
    servers = "".join(
        f"server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {made.certificate};"
        f' ssl_certificate_key {made.key}; return 200 "{name} $http_host $request_uri\\n"; }}'
        for name, port in places.items()
    )
    nginx(programs, peer("nginx"), servers, ("127.0.0.1", max(places.values())))
    env = environment(SSL_CERT_FILE=str(made.certificate))
    front = Front(
        programs, peer, WHOLE, {name: f"localhost:{port}" for name, port in places.items()}, env=env
    )
    first = [front.curl(f"https://first.example.com/{number}") for number in range(4)]
    assert (
        sorted(line.partition(" ")[0] for line in first) == ["www.example.net"] * 2 + ["www.example.org"] * 2
    )
    assert {line.partition(" ")[2] for line in first} == {f"first.example.com /{n}\n" for n in range(4)}
    mapped = front.curl("https://first.example.com/maps/org/any.ext?q")
    assert mapped == "maps.example.net first.example.com /replacing/path1/org/any.ext?q\n"
    assert front.get("http://first.example.com/").status == 301
    for host in ("second.example.com", "third.example.com"):
        assert front.curl(f"http://{host}/x") == "second.example.net second.example.com /x\n"


def test_with_w_a_change_of_the_file_is_applied_at_once(
    programs: Programs, peer: Peer, serving: Serving
) -> None:
    places = [{"app1.local:8080": f"127.0.0.1:{serving(showing(name)).port}"} for name in ("old", "new")]
    front = Front(programs, peer, CLEARTEXT, places[0], more=["-w"])
    assert front.get("http://app1.example.com/").backend == "old"
    front.write(CLEARTEXT, places[1])
    until(lambda: front.get("http://app1.example.com/").backend == "new", "the change", seconds=5)
    front.write(CLEARTEXT.replace("server_name", "server_nam"), places[0])
    front.proxy.says('did you mean "server_name"?')
    assert front.get("http://app1.example.com/").backend == "new", "a mistake changes nothing"


LOGGED = """\
listen_port = 80
listen_port_tls = 443
redact_query_in_access_log = REDACT

[apps.app1]
server_name = 'app1.example.com'
tls = { https_redirection = false, tls_cert_path = 'server.crt', tls_cert_key_path = 'server.key' }

[[apps.app1.reverse_proxy]]
upstream = [{ location = 'app1.local:8080' }]

[[apps.app1.reverse_proxy]]
path = '/forwarded'
replace_path = '/'
upstream = [{ location = 'app1.local:8080' }]
upstream_options = ["forwarded_header"]
"""
AGENT = ("--user-agent", 'Mozilla/5.0 "x"')


class Logged(Front):
    """rproxy with the log of requests among its other lines."""

    def __init__(self, programs: Programs, peer: Peer, serving: Serving, redact: str = "false") -> None:
        self_signed(programs.folder, "app1.example.com")
        backend = serving(showing("app1"))
        self.location = f"127.0.0.1:{backend.port}"
        text = LOGGED.replace("REDACT", redact)
        super().__init__(programs, peer, text, {"app1.local:8080": self.location})

    def line(self, url: str, *more: object) -> str:
        """The line that this request is given, without its time and with `PORT` for the client's port."""
        before = self.proxy.log.count(" <- ")
        self.get(url, *AGENT, *more)
        until(lambda: self.proxy.log.count(" <- ") > before, "a line for the request")
        line = next(line for line in reversed(self.proxy.log.splitlines()) if " <- " in line)
        stamp, _, rest = line.partition(" ")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", stamp)
        return re.sub(r"(?<=<- 127\.0\.0\.1:)\d+", "PORT", rest)


def test_each_request_is_a_line_as_rpxy_writes_it(programs: Programs, peer: Peer, serving: Serving) -> None:
    front = Logged(programs, peer, serving)
    start, agent = "app1.example.com <- 127.0.0.1:PORT --", r'"Mozilla/5.0 \x22x\x22", "127.0.0.1"'
    there = f"http://{front.location}"
    assert front.line("http://app1.example.com/path?query=value") == (
        f'{start} GET /path?query=value HTTP/1.1 -- 200 OK -- /path {agent} "{there}/path?query=value"'
    )
    by_url = ("--request-target", "http://app1.example.com/path?query=value")
    assert front.line("http://app1.example.com/", *by_url) == (
        f"{start} GET /path?query=value HTTP/1.1 -- 200 OK -- http://app1.example.com/path {agent}"
        f' "{there}/path?query=value"'
    )
    assert front.line("https://app1.example.com/", "--head") == (
        f'{start} HEAD / HTTP/1.1 -- 200 OK -- / {agent} "{there}/"'
    )
    assert front.line("http://nobody.example.com/x") == (
        f'nobody.example.com <- 127.0.0.1:PORT -- GET /x HTTP/1.1 -- 404 Not Found -- /x {agent} ""'
    )


def test_the_line_has_forwarded_where_the_backend_gets_it(
    programs: Programs, peer: Peer, serving: Serving
) -> None:
    line = Logged(programs, peer, serving).line("http://app1.example.com/forwarded/x")
    forwarded = '"127.0.0.1" "for=127.0.0.1;proto=http;host=app1.example.com" "http://'
    assert forwarded in line
    assert line.endswith('/x"'), "the path as the backend was asked for it"


def test_values_of_queries_can_be_left_out_of_the_log(
    programs: Programs, peer: Peer, serving: Serving
) -> None:
    front = Logged(programs, peer, serving, redact="true")
    line = front.line("http://app1.example.com/forwarded/reset?token=abc&email=a@b&flag")
    assert " GET /forwarded/reset?token=<redacted>&email=<redacted>&<redacted> HTTP/1.1 " in line
    assert line.endswith(f'"http://{front.location}/reset?token=<redacted>&email=<redacted>&<redacted>"')
    assert "abc" not in front.proxy.log


BEHIND = """
[experimental.tcp_recv_proxy_protocol]
trusted_proxies = ["127.0.0.7/32", "10.0.0.0/8"]
timeout = 300
"""
GET = "GET / HTTP/1.0\nHost: app1.example.com\n\n"


def test_a_proxy_header_is_wanted_from_those_who_may_send_it(
    programs: Programs, peer: Peer, serving: Serving
) -> None:
    backend = serving(showing("app1"))
    text = CLEARTEXT + BEHIND
    front = Front(programs, peer, text, {"app1.local:8080": f"127.0.0.1:{backend.port}"})
    header = "PROXY TCP4 203.0.113.9 127.0.0.1 5555 80\n"
    answer = front.raw(header + GET, "127.0.0.7")
    assert b"\r\nX-Forwarded-For: 203.0.113.9\r\n" in answer
    front.proxy.says("app1.example.com <- 203.0.113.9:5555 -- GET / ")
    assert front.raw(GET, "127.0.0.7") == b"", "no header"
    assert front.raw(header + GET, "127.0.0.8") == b"", "a stranger's"
    assert front.raw(GET, "127.0.0.8") == b"", "a stranger without one"
    began = time.monotonic()
    with connect(front.clear, "127.0.0.7") as silent:
        assert all_of(silent) == b""
    assert 0.2 < time.monotonic() - began < 3, "the time is in milliseconds"
    assert backend.served == 1


LIMITED = """\
max_clients = 3
max_clients_per_ip = 2
request_max_body_size = "1k"
"""


def test_clients_above_the_limits_are_closed_and_larger_bodies_refused(
    programs: Programs, peer: Peer, serving: Serving
) -> None:
    backend = serving(showing("app1"))
    text = LIMITED + CLEARTEXT
    front = Front(programs, peer, text, {"app1.local:8080": f"127.0.0.1:{backend.port}"})
    url, words = "http://app1.example.com/", ("--interface", "127.0.0.8", "--data-binary")
    assert front.get(url, *words, "x" * 1024).status == 200
    assert front.get(url, *words, "x" * 1025).status == 413
    assert front.get(url, *words, "x" * 1025, "--header", "Transfer-Encoding: chunked").status == 413
    with held(front, "127.0.0.8"), held(front, "127.0.0.8"):
        assert front.raw(GET, "127.0.0.8") == b"", "the third of one client"
        with held(front, "127.0.0.9"):
            assert front.raw(GET, "127.0.0.10") == b"", "the fourth of all"
    until(lambda: front.raw(GET, "127.0.0.10") != b"", "there is room again")


def held(front: Front, source: str) -> socket.socket:
    """A connection that is known to be open: a request on it is answered. Others may still be closing."""

    def one() -> socket.socket | None:
        client = connect(front.clear, source)
        client.sendall(GET.replace("1.0", "1.1").replace("\n", "\r\n").encode())
        with suppress(ConnectionResetError):
            if client.recv(1):
                return client
        client.close()
        return None

    found: socket.socket = until(one, "an answer")
    return found


TO_COME = """\
listen_port = 80
listen_port_tls = 443
max_concurrent_streams = 100

[apps.localhost]
server_name = 'localhost'
tls = { https_redirection = true, tls_cert_path = './server.crt', tls_cert_key_path = './server.key', \
client_ca_cert_path = './client_cert.ca.crt' }
reverse_proxy = [{ upstream = [{ location = 'app1.local:8080' }], \
upstream_options = ["force_http2_upstream"] }]

[apps.localhost_with_acme]
server_name = 'example.org'
reverse_proxy = [{ upstream = [{ location = 'example.com', tls = true }] }]
tls = { https_redirection = true, acme = true }

[experimental]
connection_handling_timeout = 30

[experimental.h3]
alt_svc_max_age = 3600
request_max_body_size = 65536
max_concurrent_connections = 10000
max_concurrent_bidistream = 100
max_concurrent_unistream = 100
max_idle_timeout = 10

[experimental.cache]
cache_dir = './cache'
max_cache_entry = 1000
max_cache_each_size = 65535
max_cache_each_size_on_memory = 4096

[experimental.acme]
dir_url = "https://localhost:14000/dir"
email = "test@example.com"
registry_path = "./acme_registry"
"""
REFUSED = {
    "apps.localhost.tls.client_ca_cert_path": "client certificates",
    "apps.localhost.reverse_proxy[0].upstream_options": "HTTP/2 to backends",
    "apps.localhost_with_acme.tls.acme": "certificates by ACME",
    "experimental.connection_handling_timeout": "a limit on whole connections",
    "experimental.h3": "HTTP/3",
    "experimental.cache": "the response cache",
    "experimental.acme": "certificates by ACME",
}


def test_what_is_not_built_yet_is_refused_key_by_key_and_nothing_else_is(programs: Programs) -> None:
    said, waiting = refusal(programs, TO_COME), {row.feature for row in NOT_YET}
    expected = [f"{k}: not supported yet ({feature})" for k, feature in REFUSED.items() if feature in waiting]
    assert re.findall(r"(?m)^config\.toml:\d+:\d+: (.*)$", said) == expected
    assert said.count("remove it, or put a # in front") == len(expected)
