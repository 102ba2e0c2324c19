"""The examples of rpxy with several backends: how load_balance spreads requests, and who is left out."""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from time import time

from tests.e2e.conftest import Peer, Serving
from tests.e2e.peers import self_signed
from tests.e2e.programs import Programs, until
from tests.e2e.streams import Backend
from tests.e2e.test_rpxy_examples import Answer, Front, read_head, showing

IN_THE_APP = """\
listen_port = 80

[apps."app_name"]
server_name = 'app1.example.com'
reverse_proxy = [
  { location = 'app1.local:8080' },
  { location = 'app2.local:8000' }
]
load_balance = 'round_robin' # or another one
"""
IN_THE_ENTRY = """\
listen_port = 80

[apps."app_name"]
server_name = 'app1.example.com'

[[apps."app_name".reverse_proxy]]
upstream = [
  { location = 'app1.local:8080' },
  { location = 'app2.local:8000' }, # and a comma
]
load_balance = 'round_robin' # or another one
"""
URL = "http://app1.example.com/"


class Balanced(Front):
    """rproxy with two backends."""

    def __init__(self, programs: Programs, peer: Peer, serving: Serving, text: str) -> None:
        self.backends = [serving(showing(name)) for name in ("app1", "app2")]
        super().__init__(programs, peer, text, places(*self.backends))

    def names(self, count: int, *more: object, url: str = URL) -> list[str]:
        """Who answered so many requests, one after another on one connection."""
        said = self.curl(*more, f"{url}?[1-{count}]")
        return re.findall(r"(?m)^served by (\w+)$", said)


def places(first: Backend, second: Backend) -> Mapping[str, object]:
    return {"app1.local:8080": f"127.0.0.1:{first.port}", "app2.local:8000": f"127.0.0.1:{second.port}"}


EVERY = ("round_robin", "random", "sticky", "none", "nothing")
HEAD, APP = IN_THE_APP.split("\n\n")
PATH = IN_THE_ENTRY.partition("\n\n")[2].partition("\n\n")[2]


def with_balance(text: str, balance: str) -> str:
    """An app or an entry with another `load_balance`, or with none at all."""
    return text.partition("load_b")[0] if balance == "nothing" else text.replace("round_robin", balance)


def spreads_as(balance: str, names: list[str]) -> bool:
    """Whether this is how 40 requests without cookies go."""
    counts, turns = Counter(names), (["app1", "app2"] * 20, ["app2", "app1"] * 20)
    match balance:
        case "none" | "nothing":
            return counts == {"app1": 40}
        case "random":  # fewer have a chance of 1 in 10^6
            return counts.total() == 40 and min(counts["app1"], counts["app2"]) > 4 and names not in turns
        case _:
            return names in turns


def test_locations_in_the_array_share_requests_as_the_introduction_has_it(
    programs: Programs, peer: Peer, serving: Serving
) -> None:
    """The example as an app for each kind."""
    apps = [
        with_balance(APP, kind).replace("app_name", kind).replace("'app1.ex", f"'{kind}.ex") for kind in EVERY
    ]
    text = "\n".join([HEAD, *apps]).replace("round_robin.ex", "round-robin.ex")
    front = Balanced(programs, peer, serving, text)
    for balance in EVERY:
        url = f"http://{balance.replace('_', '-')}.example.com/"
        assert spreads_as(balance, front.names(40, url=url)), balance


def test_requests_are_shared_as_an_entry_says(programs: Programs, peer: Peer, serving: Serving) -> None:
    """The example as a path for each kind."""
    text = IN_THE_ENTRY.removesuffix(PATH)
    for balance in EVERY:
        text += with_balance(PATH, balance).replace("]]\n", f"]]\npath = '/{balance}'\n") + "\n"
    front = Balanced(programs, peer, serving, text)
    for balance in EVERY:
        assert spreads_as(balance, front.names(40, url=f"{URL}{balance}")), balance


def test_what_the_app_says_counts_for_its_entries(programs: Programs, peer: Peer, serving: Serving) -> None:
    group = "[{ upstream = [{ location = 'app1.local:8080' }, { location = 'app2.local:8000' }] }]"
    text = re.sub(r"(?s)\[\n.*\n\]", group, IN_THE_APP)
    assert spreads_as("round_robin", Balanced(programs, peer, serving, text).names(40))


STICKY = 'sticky_cookie_secret = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef_-012345678"\n' + IN_THE_ENTRY.replace(
    "round_robin", "sticky"
)
COOKIE = re.compile(r"rproxy_sticky=([\w-]+); Expires=([^;]+); Max-Age=300; Path=/; HttpOnly; SameSite=Lax")


def cookie_of(answer: Answer) -> re.Match[str]:
    (field,) = answer.got("Set-Cookie")
    found = COOKIE.fullmatch(field.removesuffix("; Secure"))
    assert found is not None, field
    return found


def test_a_client_with_the_cookie_stays_where_it_was(
    programs: Programs, peer: Peer, serving: Serving
) -> None:
    front = Balanced(programs, peer, serving, STICKY)
    first = front.get(URL)
    cookie = cookie_of(first)
    assert 290 < parsedate_to_datetime(cookie[2]).timestamp() - time() < 301
    mine = "--cookie", f"a=b; rproxy_sticky={cookie[1]}; c=d"
    assert front.names(20, *mine) == [first.backend] * 20
    again = front.get(URL, *mine)
    assert (again.seen("Cookie"), again.got("Set-Cookie")) == (["a=b; c=d"], [])
    for other in ("x", "B" + cookie[1][1:], cookie[1][:-9] + "AAAAAAAAA"):
        assert len(set(front.names(4, "--cookie", f"rproxy_sticky={other}"))) == 2, "nobody can choose"
    front.proxy.end()
    restarted = Front(programs, peer, STICKY, places(*front.backends))
    assert [restarted.get(URL, *mine).backend for _ in range(4)] == [first.backend] * 4


def test_a_client_whose_backend_is_gone_gets_another_and_its_cookie(
    programs: Programs, peer: Peer, serving: Serving
) -> None:
    self_signed(programs.folder, "app1.example.com")
    tls = "tls = { tls_cert_path = 'server.crt', tls_cert_key_path = 'server.key' }\n"
    text = STICKY.replace("\n[[", f"{tls}\n[[")
    front = Balanced(programs, peer, serving, "listen_port_tls = 443\n" + text)
    url = URL.replace("http:", "https:")
    first = front.get(url)
    assert first.got("Set-Cookie")[0].endswith("; Secure")
    gone = front.backends[first.backend == "app2"]
    gone.end()
    moved = front.get(url, "--cookie", f"rproxy_sticky={cookie_of(first)[1]}")
    assert (moved.status, moved.backend) == (200, "app2" if first.backend == "app1" else "app1")
    assert cookie_of(moved)[1] != cookie_of(first)[1]


def test_without_a_secret_sticky_works_until_the_next_start_and_says_so(
    programs: Programs, peer: Peer, serving: Serving
) -> None:
    front = Balanced(programs, peer, serving, STICKY.partition("\n")[2])
    front.proxy.says("sticky_cookie_secret is not set")
    first = front.get(URL)
    assert set(front.names(8, "--cookie", f"rproxy_sticky={cookie_of(first)[1]}")) == {first.backend}


CHECKED = """
[apps."app_name".reverse_proxy.health_check]
type = "http"
interval = 2
timeout = 1
unhealthy_threshold = 1
healthy_threshold = 1
path = "/health"
expected_status = 200
"""


def test_the_primary_serves_while_it_is_healthy(programs: Programs, peer: Peer, serving: Serving) -> None:
    status = b"503 Ill"

    def primary(stream: socket.socket) -> None:
        while head := read_head(stream):
            line = status if head.startswith(b"GET /health ") else b"200 OK"
            stream.sendall(b"HTTP/1.1 %b\r\nContent-Length: 7\r\n\r\nprimary" % line)

    backends = serving(primary), serving(showing("backup"))
    text = IN_THE_ENTRY.replace("round_robin", "primary_backup") + CHECKED
    front = Front(programs, peer, text, places(*backends))
    front.proxy.says("is unhealthy: it answers with 503 instead of 200")
    assert [front.get(URL).backend for _ in range(3)] == ["backup"] * 3
    status = b"200 Well"
    front.proxy.says("is healthy again")
    assert [front.curl(URL) for _ in range(3)] == ["primary"] * 3


def test_health_check_true_is_a_connection_now_and_then(
    programs: Programs, peer: Peer, serving: Serving
) -> None:
    heads: list[bytes] = []
    backends = [serving(lambda stream: heads.append(read_head(stream))) for _ in range(2)]
    Front(programs, peer, IN_THE_ENTRY + "health_check = true\n", places(*backends))
    until(lambda: len(heads) == 2, "both have been connected to")
    assert heads == [b"", b""], "and not asked anything"
