"""Bans with real clients: on new connections and living ones, behind proxies, from the file and by jails."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from rproxy.wire.address import Inet
from rproxy.wire.proxyheader import encode_v2
from tests.e2e.conftest import Peer, Serving
from tests.e2e.identities import Identities
from tests.e2e.peers import nginx
from tests.e2e.programs import RPROXY, Programs, Proxy, free_port, run, until
from tests.e2e.streams import Backend, all_of, ask, call, client_hello, connect, echo, exactly, saying

TRUSTED = 'accept_proxy_protocol = { from = ["127.0.0.1"] }\n'
BAD = "127.0.0.77"


def app(backend: Backend, more: str = "") -> str:
    return f'[apps.a]\nserver_name = "a.test"\n{more}passthrough = {{ upstream = [{backend.location}] }}\n'


def files(folder: Path) -> str:
    return f'ban_list = "{folder}/bans.txt"\nadmin_socket = "{folder}/s"\n'


def tell(folder: Path, *words: str) -> str:
    """What `rproxy` prints."""
    done = run([*RPROXY, *words, "--socket", folder / "s"])
    assert done.returncode == 0, done.stderr
    return done.stdout


def behind(port: int, client: str) -> bytes:
    """All that a client gets whom a PROXY header names."""
    with connect(port) as stream:
        local = Inet("::1" if ":" in client else "127.0.0.1", 443)
        stream.sendall(encode_v2(Inet(client, 4711), local) + client_hello("a.test"))
        return all_of(stream)


def test_a_ban_closes_the_door_and_the_connections_that_live(
    programs: Programs, serving: Serving, short_path: Path
) -> None:
    backend = serving(echo)
    proxy = programs.rproxy(files(short_path) + app(backend))
    with call(proxy.port, "a.test", b"bad", BAD) as bad, call(proxy.port, "a.test", b"good") as good:
        assert (exactly(bad, 3), exactly(good, 4)) == (b"bad", b"good")
        assert tell(short_path, "ban", BAD) == f"banned: {BAD}\n"
        assert all_of(bad) == b""
        assert ask(proxy.port, "a.test", source=BAD) == b""
        good.sendall(b" still")
        assert exactly(good, 6) == b" still"
    assert (short_path / "bans.txt").read_text() == f"{BAD}\n"
    assert tell(short_path, "unban", BAD) == f"{BAD} may come again\n"
    with call(proxy.port, "a.test", b"again", BAD) as bad:
        assert exactly(bad, 5) == b"again"
    assert "1 connections of banned clients were closed" in proxy.log
    until(lambda: [end["reason"] for end in proxy.ends()].count("banned") == 1, "the reason in the log")


def test_a_ban_for_a_time_ends_by_itself(programs: Programs, serving: Serving, short_path: Path) -> None:
    proxy = programs.rproxy(files(short_path) + app(serving(saying(b"hello"))))
    assert tell(short_path, "ban", BAD, "--for", "2s").startswith(f"banned: {BAD} 20")
    assert ask(proxy.port, "a.test", source=BAD) == b""
    until(lambda: ask(proxy.port, "a.test", source=BAD) == b"hello", "the end of the ban", 5)
    assert tell(short_path, "bans") == "nobody is banned\n"


def test_behind_a_proxy_it_is_the_real_client_that_is_banned(
    programs: Programs, serving: Serving, short_path: Path
) -> None:
    proxy = programs.rproxy(files(short_path) + TRUSTED + app(serving(saying(b"hello"))))
    tell(short_path, "ban", "192.0.2.7")
    tell(short_path, "ban", "2001:db8::/64")
    clients = ["192.0.2.7", "192.0.2.8", "2001:db8::9", "2001:db8:0:1::9"]
    assert [behind(proxy.port, client) for client in clients] == [b"", b"hello", b"", b"hello"]
    until(lambda: [end["reason"] for end in proxy.ends()].count("banned") == 2, "two lines in the log")


def test_a_connection_that_lives_behind_a_proxy_ends_with_its_own_client(
    programs: Programs, serving: Serving, short_path: Path
) -> None:
    proxy = programs.rproxy(files(short_path) + TRUSTED + app(serving(echo)))
    streams = []
    for client in ("192.0.2.7", "192.0.2.8"):
        streams.append(connect(proxy.port))
        streams[-1].sendall(
            encode_v2(Inet(client, 1), Inet("127.0.0.1", 443)) + client_hello("a.test") + b"x"
        )
        assert exactly(streams[-1], 1) == b"x"
    tell(short_path, "ban", "192.0.2.0/29")
    tell(short_path, "unban", "192.0.2.0/29")
    tell(short_path, "ban", "192.0.2.7")
    assert all_of(streams[0]) == b""
    streams[0].close()
    streams[1].close()


def test_the_file_survives_a_restart_and_may_be_edited(
    programs: Programs, serving: Serving, short_path: Path
) -> None:
    backend, bans = serving(saying(b"hello")), short_path / "bans.txt"
    bans.write_text(f"# by hand\n{BAD}\n127.0.0.78 1\n")
    proxy = programs.rproxy(files(short_path) + app(backend))
    assert ask(proxy.port, "a.test", source=BAD) == b""
    until(lambda: "T" in bans.read_text(), "the time in the place of the second")
    bans.write_text("# by hand\n127.0.0.79 # instead\n")
    until(lambda: ask(proxy.port, "a.test", source=BAD) == b"hello", "the edit", 5)
    assert ask(proxy.port, "a.test", source="127.0.0.79") == b""
    tell(short_path, "ban", BAD)
    assert bans.read_text() == f"# by hand\n127.0.0.79 # instead\n{BAD}\n"
    proxy.end()
    again = programs.rproxy(files(short_path) + app(backend))
    answers = [ask(again.port, "a.test", source=source) for source in (BAD, "127.0.0.79", "127.0.0.78")]
    assert answers == [b"", b"", b"hello"]


def test_a_broken_file_is_refused_at_the_start_and_ignored_later(
    programs: Programs, serving: Serving, short_path: Path, tmp_path: Path
) -> None:
    backend, bans = serving(saying(b"hello")), short_path / "bans.txt"
    bans.write_text(f"{BAD}\nnobody\n")
    config = tmp_path / "broken.toml"
    config.write_text(f"listen_port_tls = {free_port()}\n{files(short_path)}{app(backend)}")
    done = run([*RPROXY, "run", "-c", config])
    assert done.returncode == 1
    assert f"{bans}:2:1: 'nobody' is no network" in done.stderr + done.stdout
    bans.write_text(f"{BAD}\n")
    proxy = programs.rproxy(files(short_path) + app(backend))
    bans.write_text("nobody\n# at all\n")
    proxy.says("the bans stay as they were")
    assert ask(proxy.port, "a.test", source=BAD) == b""


# -- Requests -----------------------------------------------------------------------------------------------


class Site:
    """An app in clear text, whose backend wants a login below /login."""

    def __init__(self, programs: Programs, peer: Peer, folder: Path, top: str, more: str = "") -> None:
        backend, self.port = free_port(), free_port()
        locations = 'location /login { return 401; } location / { return 200 "ok\\n"; }'
        nginx(
            programs,
            peer("nginx"),
            f"server {{ listen 127.0.0.1:{backend}; {locations} }}",
            ("127.0.0.1", backend),
        )
        self._curl = peer("curl")
        self.proxy: Proxy = programs.rproxy(
            f'listen_port = {self.port}\n{files(folder)}{top}[apps.a]\nserver_name = "a.test"\n'
            f'reverse_proxy = {{ location = "127.0.0.1:{backend}" }}\n{more}'
        )

    def get(self, path: str = "/", client: str = "", source: str = "127.0.0.1") -> str:
        """The status; `client` is whom X-Forwarded-For names."""
        words = [self._curl, "--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]
        words += ["--max-time", "10", "--noproxy", "*", "--interface", source, "--header", "Host: a.test"]
        words += ["--header", f"X-Forwarded-For: {client}"] if client else []
        return run([*words, f"http://127.0.0.1:{self.port}{path}"]).stdout


def test_a_client_of_a_trusted_proxy_is_told_that_it_may_not(
    programs: Programs, peer: Peer, short_path: Path
) -> None:
    site = Site(programs, peer, short_path, 'trusted_forwarded_proxies = "127.0.0.1"\n')
    tell(short_path, "ban", "192.0.2.7")
    assert [site.get(client=client) for client in ("192.0.2.7", "192.0.2.8", "")] == ["403", "200", "200"]
    assert site.get(client="192.0.2.8, 192.0.2.7") == "403"  # the proxy saw the last one
    assert site.get(client="192.0.2.7", source="127.0.0.78") == "200"  # nobody believes this one
    until(lambda: site.proxy.log.count(" 403 Forbidden ") == 2, "both in the access log")


JAIL = '[[jail]]\nmatch = "{}"\nrate = "3/1h"\nban = "1h"\nignore = []\n'


def test_a_jail_bans_who_fails_to_log_in_too_often(programs: Programs, peer: Peer, short_path: Path) -> None:
    site = Site(programs, peer, short_path, "", JAIL.format("status 401,403"))
    assert [site.get("/login", source=BAD) for _ in range(4)] == ["401"] * 4
    until(lambda: site.get(source=BAD) == "000", "the ban")
    assert site.get() == "200"
    (ban,) = json.loads(tell(short_path, "bans", "--json"))["bans"]
    assert (ban["address"], ban["note"]) == (BAD, "jail: status 401,403")
    until(lambda: (short_path / "bans.txt").exists(), "the file")
    assert (short_path / "bans.txt").read_text().endswith("# jail: status 401,403\n")


def test_a_jail_bans_the_client_and_not_the_trusted_proxy(
    programs: Programs, peer: Peer, short_path: Path
) -> None:
    top = 'trusted_forwarded_proxies = "127.0.0.1"\n'
    site = Site(programs, peer, short_path, top, JAIL.format("status 401"))
    assert [site.get("/login", "192.0.2.7") for _ in range(4)] == ["401"] * 4
    until(lambda: site.get("/", "192.0.2.7") == "403", "the ban")
    assert [site.get("/login") for _ in range(8)] == ["401"] * 8  # the proxy's own requests
    assert site.get("/", "192.0.2.8") == "200"


@pytest.mark.parametrize(
    ("reason", "knock"), [("not_tls", b"\x00" * 40), ("unknown_name", client_hello("nobody.test"))]
)
def test_a_jail_bans_who_knocks_at_wrong_doors(
    programs: Programs, serving: Serving, short_path: Path, reason: str, knock: bytes
) -> None:
    backend = serving(saying(b"hello"))
    proxy = programs.rproxy(files(short_path) + app(backend) + JAIL.format(f"reason {reason}"))
    for _ in range(4):
        with connect(proxy.port, BAD) as stream:
            stream.sendall(knock)
            assert all_of(stream)
    until(lambda: ask(proxy.port, "a.test", source=BAD) == b"", "the ban")
    assert ask(proxy.port, "a.test") == b"hello"


def test_a_jail_bans_who_comes_to_an_app_without_its_certificate(
    programs: Programs, short_path: Path, tmp_path: Path
) -> None:
    """The journal has a line for each handshake that failed, with the reason that TCP services have."""
    identities = Identities(tmp_path / "identities")
    site = f'[apps.site]\nserver_name = "a.test"\n{identities.tls}reverse_proxy = {{ location = "demo:" }}\n'
    jail = JAIL.format("reason certificate_required,unknown_ca")
    proxy = programs.rproxy(files(short_path) + site + jail)

    def knock(file: str | None, source: str = BAD) -> str:
        context = identities.context(file)
        try:
            with context.wrap_socket(connect(proxy.port, source), server_hostname="a.test") as stream:
                stream.sendall(b"GET / HTTP/1.0\r\nHost: a.test\r\n\r\n")
                return stream.recv(12).decode()
        except OSError as problem:
            return str(problem)

    for file, alert in (
        (None, "REQUIRED"),
        ("expired", "EXPIRED"),
        ("stranger", "UNKNOWN"),
        (None, "REQUIRED"),
    ):
        assert alert in knock(file).upper()
    assert knock("bob") == "HTTP/1.1 200", "one of the four is none that the jail counts"
    knock("stranger")
    until(lambda: not knock("bob").startswith("HTTP"), "the ban")
    assert knock("bob", "127.0.0.1") == "HTTP/1.1 200"
    until(lambda: len(proxy.ends()) == 5, "five lines")
    told = [(end["client"].partition(":")[0], end["app"], end["reason"]) for end in proxy.ends()]
    reasons = ["required", "expired", "unknown_ca", "required", "unknown_ca"]
    assert told == [(BAD, "site", r if r == "unknown_ca" else f"certificate_{r}") for r in reasons]


def test_a_jail_comes_and_goes_with_a_reload(programs: Programs, serving: Serving, short_path: Path) -> None:
    text = files(short_path) + app(serving(saying(b"hello")))
    proxy = programs.rproxy(text)

    def knock(times: int) -> None:
        for _ in range(times):
            with connect(proxy.port, BAD) as stream:
                stream.sendall(b"\x00" * 40)
                all_of(stream)

    knock(5)
    proxy.reload(text + JAIL.format("reason not_tls"))
    knock(3)
    assert ask(proxy.port, "a.test", source=BAD) == b"hello"
    knock(1)
    until(lambda: ask(proxy.port, "a.test", source=BAD) == b"", "the ban")
    proxy.reload(text)
    tell(short_path, "unban", BAD)
    knock(5)
    assert ask(proxy.port, "a.test", source=BAD) == b"hello"


def test_a_long_ban_list_delays_nobody_while_it_is_read(
    programs: Programs, serving: Serving, short_path: Path
) -> None:
    proxy = programs.rproxy(files(short_path) + app(serving(saying(b"hello"))))
    lines = [f"{10 + (n >> 16)}.{n >> 8 & 255}.{n & 255}.0/24 # {n}" for n in range(100_000)]
    fresh = short_path / "fresh"
    fresh.write_text("\n".join([*lines, BAD, ""]))
    fresh.rename(short_path / "bans.txt")
    waits: list[Any] = []
    while "bans in" not in proxy.log:
        began = time.monotonic()
        assert ask(proxy.port, "a.test") == b"hello"
        waits.append(time.monotonic() - began)
        time.sleep(0.005)
        assert len(waits) < 2000
    assert ask(proxy.port, "a.test", source=BAD) == b""
    assert sorted(waits)[len(waits) // 2] < 0.05
    assert max(waits) < 1.0, "one look through all of it takes 60 ms, on a machine with time"
