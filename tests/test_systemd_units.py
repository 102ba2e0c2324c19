"""The systemd units in docs/: their commands exist, their sandbox is closed, the hosts service runs."""

import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rproxy.command import _parser
from rproxy.config.load import parse
from rproxy.config.schema import Configuration
from tests.e2e.programs import RPROXY, Programs
from tests.e2e.streams import UNRECOGNIZED_NAME, Backend, all_of, ask, call, saying

UNITS = Path(__file__).parents[1] / "docs" / "examples" / "systemd"
SERVICES = ["rproxy.service", "rproxy-hosts.service"]
SOCKETS = ["rproxy.socket", "rproxy-hosts.socket"]
COMMAND = "/opt/rproxy/bin/rproxy"

CLOSED = {
    "NoNewPrivileges": ["yes"],
    "CapabilityBoundingSet": [""],
    "AmbientCapabilities": [""],
    "ProtectSystem": ["strict"],
    "PrivateDevices": ["yes"],
    "ProtectProc": ["invisible"],
    "ProtectClock": ["yes"],
    "ProtectHostname": ["yes"],
    "ProtectControlGroups": ["yes"],
    "ProtectKernelLogs": ["yes"],
    "ProtectKernelModules": ["yes"],
    "ProtectKernelTunables": ["yes"],
    "RestrictNamespaces": ["yes"],
    "RestrictRealtime": ["yes"],
    "RestrictSUIDSGID": ["yes"],
    "LockPersonality": ["yes"],
    "SystemCallFilter": ["@system-service", "~@privileged @resources"],
    "SystemCallArchitectures": ["native"],
}
"""What keeps a broken proxy from becoming a broken machine."""


def unit(name):
    """The sections of a unit file: each key with all its values, as a key may stand there several times."""
    sections, current = {}, None
    for line in (UNITS / name).read_text().split("\n"):
        if re.fullmatch(r"\[\w+\]", line):
            current = sections.setdefault(line[1:-1], {})
        elif line and not line.startswith("#"):
            key, separator, value = line.partition("=")
            assert separator, line
            current.setdefault(key, []).append(value)
    return sections


def arguments(command):
    """A command line of a unit as our parser reads it."""
    program, *words = shlex.split(command)
    assert program == COMMAND
    return _parser().parse_args(words)


def seconds(text):
    return float(text.removesuffix("s"))


@pytest.mark.parametrize("name", SERVICES)
def test_the_commands_are_ours(name):
    service = unit(name)["Service"]
    for key in ("ExecStartPre", "ExecStart", "ExecReload"):
        for command in service.get(key, []):
            assert command == "/bin/kill -HUP $MAINPID" or arguments(command)


@pytest.mark.parametrize("name", SERVICES)
def test_a_broken_proxy_can_do_little(name):
    service = unit(name)["Service"]
    assert {key: service.get(key) for key in CLOSED} == CLOSED
    assert service["User"] == ["rproxy"]


def test_the_hosts_service_has_no_network_and_no_writable_code():
    service = unit("rproxy-hosts.service")["Service"]
    assert service["PrivateNetwork"] == ["yes"]
    assert service["RestrictAddressFamilies"] == ["AF_UNIX"]
    assert service["MemoryDenyWriteExecute"] == ["yes"]


@pytest.mark.parametrize("name", SERVICES)
def test_systemd_waits_longer_than_the_drain(name):
    drain = Configuration.model_fields["drain_timeout"].default
    assert drain < seconds(unit(name)["Service"]["TimeoutStopSec"][0]) < 2 * drain


@pytest.mark.parametrize("name", SERVICES)
def test_there_are_descriptors_for_every_connection(name):
    connections = Configuration.model_fields["max_clients"].default
    assert int(unit(name)["Service"]["LimitNOFILE"][0]) > 6 * connections


def test_the_signals_mean_what_the_mode_makes_of_them():
    assert "KillSignal" not in unit("rproxy.service")["Service"]
    assert unit("rproxy.service")["Service"]["ExecReload"][-1] == "/bin/kill -HUP $MAINPID"
    hosts = unit("rproxy-hosts.service")["Service"]
    assert hosts["KillSignal"] == ["SIGHUP"]
    assert "ExecReload" not in hosts


def test_each_service_gets_its_socket():
    for name in SERVICES:
        assert unit(name)["Unit"]["Requires"] == [name.replace(".service", ".socket")]
    assert unit("rproxy-hosts.service")["Service"]["StandardInput"] == ["socket"]
    assert len(unit("rproxy-hosts.socket")["Socket"]["ListenStream"]) == 1


def test_the_socket_unit_names_the_line_for_the_config_file():
    line = re.search(r'listen_tls = \["systemd:.*"\]', (UNITS / "rproxy.socket").read_text())[0]
    app = '\n[apps.a]\nserver_name = "a.test"\npassthrough.upstream = [{ location = "127.0.0.1:1" }]'
    assert parse(line + app, "unit.toml").listen_tls


@pytest.mark.parametrize("name", SERVICES + SOCKETS)
def test_systemd_knows_every_key(name, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for other in SERVICES + SOCKETS:  # of programs, only those that exist are accepted
        (tmp_path / other).write_text((UNITS / other).read_text().replace(COMMAND, "/bin/true"))
    verify = ["systemd-analyze", "verify", str(tmp_path / name)]
    done = subprocess.run(verify, capture_output=True, text=True, timeout=60, check=False)
    assert "Unknown" not in done.stderr
    assert "Failed to parse" not in done.stderr
    assert "nvalid" not in done.stderr


@pytest.fixture
def programs(tmp_path):
    running = Programs(tmp_path)
    yield running
    running.end()


@pytest.fixture
def hosts(tmp_path):
    """A hosts folder where a.test has a backend."""
    folder = tmp_path / "hosts"
    (folder / "a.test").mkdir(parents=True)
    backend = Backend(saying(b"here is a"), folder / "a.test" / "tls-socket")
    yield folder
    backend.end()


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0), backlog=64) as inherited:
        yield inherited


def start(programs, hosts, listening, *wrapper):
    """The command of the hosts service, with what systemd would give it."""
    service = unit("rproxy-hosts.service")["Service"]
    assert service["WorkingDirectory"] == ["/srv/hosts"]
    words = [*wrapper, *RPROXY, *shlex.split(service["ExecStart"][0])[1:]]
    return programs.start(words, "rproxy", stdin=listening, cwd=hosts)


def test_the_hosts_service_serves_the_inherited_socket(programs, hosts, listening):
    port = listening.getsockname()[1]
    proxy = start(programs, hosts, listening)
    assert ask(port, "a.test") == b"here is a"
    assert ask(port, "b.test") == UNRECOGNIZED_NAME
    proxy.signal(signal.SIGHUP)
    assert proxy.ended() == 0


def test_a_restart_of_the_hosts_service_refuses_nobody(programs, hosts, listening):
    port = listening.getsockname()[1]
    first = start(programs, hosts, listening)
    assert ask(port, "a.test") == b"here is a"
    first.signal(signal.SIGHUP)
    assert first.ended() == 0
    with call(port, "a.test") as waiting:  # nobody runs; the socket keeps the connection
        start(programs, hosts, listening)
        assert all_of(waiting) == b"here is a"


NO_WRITABLE_CODE = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
    sys.exit("this kernel has no PR_SET_MDWE")
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_the_hosts_service_runs_without_memory_that_is_writable_and_executable(programs, hosts, listening):
    wrapper = [sys.executable, "-c", NO_WRITABLE_CODE]
    if subprocess.run([*wrapper, "/bin/true"], capture_output=True, check=False).returncode:
        pytest.skip("this kernel cannot refuse such memory")
    proxy = start(programs, hosts, listening, *wrapper)
    assert ask(listening.getsockname()[1], "a.test") == b"here is a"
    proxy.signal(signal.SIGHUP)
    assert proxy.ended() == 0


def test_the_hosts_service_runs_without_a_network(programs, hosts, listening):
    wrapper = ["unshare", "--net", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*wrapper, "true"], check=False).returncode:
        pytest.skip("no namespaces here")
    proxy = start(programs, hosts, listening, *wrapper)
    assert ask(listening.getsockname()[1], "a.test") == b"here is a"
    proxy.signal(signal.SIGHUP)
    assert proxy.ended() == 0
