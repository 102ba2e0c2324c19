"""The filter and the action that are shipped, with fail2ban itself: one client is shut out, nobody else."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Peer
from tests.e2e.peers import haproxy, nginx
from tests.e2e.programs import ROOT, Programs, free_port, run, until

SHIPPED = ROOT / "docs" / "examples" / "fail2ban"
BAD, GOOD = "127.0.0.77", "127.0.0.78"
"""Two clients, by loopback addresses that nothing else in these tests uses."""
JAIL = """\
[DEFAULT]
ignoreself = false
ignoreip =
usedns = no
backend = polling
[rproxy]
enabled = true
filter = rproxy
logpath = {log}
action = rproxy[rproxy="{python} -m rproxy.command", socket="{socket}"]
maxretry = 3
findtime = 600
bantime = 600
"""
CONF = """\
[Definition]
loglevel = INFO
logtarget = STDOUT
syslogsocket = auto
socket = {folder}/fail2ban.sock
pidfile = {folder}/fail2ban.pid
dbfile = None
dbpurgeage = 1d
dbmaxmatches = 10
"""
FRONTS = {
    "PROXY header": ("tcp", "", "send-proxy-v2", 'accept_proxy_protocol.from = "127.0.0.1"\n'),
    "X-Forwarded-For": ("http", "  option forwardfor\n", "", 'trusted_forwarded_proxies = "127.0.0.1"\n'),
}


def fail2ban(programs: Programs, peer: Peer, log: Path, socket: Path, folder: Path) -> Path:
    """Its server with our files, once it watches the log; the path of its own socket."""
    configs = folder / "fail2ban"
    shutil.copytree(SHIPPED, configs)
    shutil.rmtree(configs / "jail.d")
    (configs / "fail2ban.conf").write_text(CONF.format(folder=folder))
    (configs / "jail.conf").write_text(JAIL.format(log=log, python=sys.executable, socket=socket))
    words = [peer("fail2ban-server"), "-f", "-c", configs, "-s", folder / "fail2ban.sock"]
    server = programs.start([*words, "-p", folder / "fail2ban.pid"], "fail2ban")
    server.says("Jail 'rproxy' started")
    return folder / "fail2ban.sock"


def status(peer: Peer, port: int, client: str, path: str) -> str:
    """The status that a client gets from the proxy in front, 000 where the connection is closed."""
    words = [peer("curl"), "--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]
    words += ["--max-time", "10", "--noproxy", "*", "--interface", client, "--header", "Host: a.test"]
    return run([*words, f"http://127.0.0.1:{port}{path}"]).stdout


@pytest.mark.parametrize(
    ("front", "style"), [("PROXY header", "rpxy"), ("X-Forwarded-For", "rpxy"), ("X-Forwarded-For", "json")]
)
def test_fail2ban_shuts_out_a_client_and_nobody_else_behind_the_same_proxy(
    programs: Programs, peer: Peer, short_path: Path, front: str, style: str
) -> None:
    backend, port, entrance = free_port(), free_port(), free_port()
    locations = 'location /login { return 401; } location / { return 200 "ok\\n"; }'
    nginx(
        programs,
        peer("nginx"),
        f"server {{ listen 127.0.0.1:{backend}; {locations} }}",
        ("127.0.0.1", backend),
    )
    log, socket = short_path / "access.log", short_path / "admin.sock"
    mode, more, send, trust = FRONTS[front]
    programs.rproxy(
        f'listen_port = {port}\n{trust}admin_socket = "{socket}"\nban_list = "{short_path}/bans.txt"\n'
        f'access_log = {{ path = "{log}", format = "{style}" }}\n'
        f'[apps.a]\nserver_name = "a.test"\nreverse_proxy = {{ location = "127.0.0.1:{backend}" }}\n'
    )
    haproxy(
        programs,
        peer("haproxy"),
        f"listen front\n  mode {mode}\n{more}  bind 127.0.0.1:{entrance}\n"
        f"  server r 127.0.0.1:{port} {send}\n",
        entrance,
    )
    control = fail2ban(programs, peer, log, socket, short_path)
    assert [status(peer, entrance, BAD, "/login") for _ in range(3)] == ["401"] * 3
    assert status(peer, entrance, GOOD, "/login") == "401"
    refused = "403" if mode == "http" else "000"
    until(lambda: status(peer, entrance, BAD, "/") == refused, "the ban", 20)
    assert status(peer, entrance, GOOD, "/") == "200"
    assert (short_path / "bans.txt").read_text() == f"{BAD}\n"
    run([peer("fail2ban-client"), "-s", control, "set", "rproxy", "unbanip", BAD])
    until(lambda: status(peer, entrance, BAD, "/") == "200", "the end of the ban", 20)


def regex(peer: Peer, lines: list[str], mode: str, folder: Path) -> str:
    """What fail2ban's own trial says about these lines."""
    (folder / "lines").write_text("".join(f"{line}\n" for line in lines))
    tried = f"{SHIPPED}/filter.d/rproxy.conf[mode={mode}]"
    return run([peer("fail2ban-regex"), "--print-all-matched", folder / "lines", tried]).stdout


def test_the_connection_log_can_be_filtered_too(peer: Peer, tmp_path: Path) -> None:
    line = "2026-11-21T01:05:41Z client={} name=- app=- peer=- received=7 sent=7 seconds=0.016 reason={}"
    lines = [
        line.format(client, reason)
        for client in ("192.0.2.7:1", "[2001:db8::1]:1")
        for reason in ("not_tls", "closed", "unknown_name")
    ]
    assert "0 ignored, 4 matched, 2 missed" in regex(peer, lines, "scan", tmp_path)


def test_nobody_can_write_a_line_that_bans_somebody_else(peer: Peer, tmp_path: Path) -> None:
    """Quotes of clients are escaped, and what the proxy itself refused counts for nobody."""
    line = (
        "2026-11-21T07:10:00.123456Z a.test <- 127.0.0.1:1 -- GET {} HTTP/1.1 -- {} -- /x"
        ' "{}", "192.0.2.7" "{}"'
    )
    ok, backend = "200 OK", "http://127.0.0.1:80/x"
    forged = "\\x22, \\x22192.0.2.9\\x22 \\x22http://x"
    lines = [
        line.format("/x", "403 Forbidden", "curl", ""),
        line.format("/--\\x20401\\x20Unauthorized\\x20--", ok, "curl", backend),
        line.format("/x", ok, f"-- 401 Unauthorized -- /x {forged}", backend),
        '{"time":"2026-11-21T07:10:00.123Z","path":"/\\"status\\":401,","status":200,"forwarded_for":"192.0.2.9"'
        ',"forwarded":"","app":"a","reason":"ok"}',
    ]
    assert "0 ignored, 0 matched, 4 missed" in regex(peer, lines, "login", tmp_path)
