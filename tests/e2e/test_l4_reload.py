"""`[l4.<name>]` while it runs: what a reload or a changed file means to who is in, and to who comes then."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.e2e.conftest import Serving
from tests.e2e.identities import Identities, Service, echo
from tests.e2e.programs import Programs, free_port, until
from tests.e2e.streams import connect, exactly


@pytest.fixture
def identities(tmp_path: Path) -> Identities:
    return Identities(tmp_path / "identities")


GROUPS = 'authorized_groups = ["admin"]\n'


def test_a_reload_changes_who_may_and_lets_those_who_are_in_go_on(
    programs: Programs, serving: Serving, identities: Identities
) -> None:
    service = Service(programs, [serving(echo)], GROUPS + identities.tls)
    with identities.connect(service.port) as client:
        client.sendall(b"1")
        assert client.recv(1) == b"1"
        service.reload('authorized_names = ["eve@staff"]\n' + identities.tls)
        with pytest.raises(OSError, match=r"(?i)access.denied"):
            identities.connect(service.port, "bob").recv(1)
        with identities.connect(service.port, "eve") as other:
            other.sendall(b"2")
            assert other.recv(1) == b"2"
        client.sendall(b"3")
        assert client.recv(1) == b"3"


def test_a_reload_opens_and_closes_listeners_and_keeps_the_rest(
    programs: Programs, serving: Serving, identities: Identities
) -> None:
    service = Service(programs, [serving(echo)], identities.tls)
    second = free_port()
    more = f'[l4.plain]\nlisten = "127.0.0.1:{second}"\nupstream = [{service.backends[0].location}]\n'
    service.reload(identities.tls + more)
    with connect(second) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
    # From a service to HTTP and back on the same listener: what it is is decided for each connection.
    with identities.connect(service.port) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
    service.reload(identities.tls)
    until(lambda: refuses(second), "a listener that is gone")
    service.reload("timeout = '1m'\n")
    with connect(service.port) as client:  # without tls now
        client.sendall(b"plain")
        assert exactly(client, 5) == b"plain"


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_revocation_counts_from_the_next_connection_on(
    programs: Programs, serving: Serving, identities: Identities
) -> None:
    """The file is watched; nobody resumes a session from before."""
    gone = identities.client("leaver", "leaver@admin")
    service = Service(programs, [serving(echo)], identities.tls)
    identities.connect(service.port, "leaver").close()
    identities.revoke(gone)
    service.proxy.says("new client CA")
    with pytest.raises(OSError, match=r"(?i)certificate.revoked"):
        identities.connect(service.port, "leaver").recv(1)
