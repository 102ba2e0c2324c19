"""The twins of `tlsbytes` in their place: below `tls`, choosing protocols, and beside other bindings."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from rproxy.deadlines import Deadlines
from rproxy.openssl import Scratch, use_pair, words_of
from rproxy.tls import TLSTransport
from tests.native.twins import Twins, patient
from tests.test_tls import SAYS, played, theirs
from tests.tlspeers import MemoryClient, Pipe, converse, make, whole

FOREIGN = """
import sys, types
from importlib.util import module_from_spec, spec_from_file_location
from cryptography.hazmat.bindings import _rust
from OpenSSL import SSL
{spoil}
spec = spec_from_file_location("tlsbytes", {file!r})
module = module_from_spec(spec)
spec.loader.exec_module(module)
print(module.Records.__module__, module.offer.__module__)
"""
SPOILED = (
    "_rust._openssl = types.SimpleNamespace(ffi=_rust._openssl.ffi, lib=types.ModuleType('lib'))",
    "_rust._openssl = types.SimpleNamespace(ffi=types.SimpleNamespace(), lib=None)",
    "sys.modules['cryptography.hazmat.bindings._rust'] = types.ModuleType('_rust')",
)
"""Bindings whose functions have no address, that know no types, and that are somewhere else."""


@pytest.fixture(scope="module")
def twins(twins_of: Callable[[str], Twins]) -> Twins:
    return twins_of("tlsbytes")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], SSL.Context]:
    """A new context for each call."""
    pair = make("example.org").pair(tmp_path_factory.mktemp("site"), "a")

    def context() -> SSL.Context:
        made = SSL.Context(SSL.TLS_SERVER_METHOD)
        use_pair(made, pair)
        return made

    return context


def built(twin: Any, context: SSL.Context, inner: Protocol) -> Any:
    """TLS around this protocol, by way of this twin."""
    connection = SSL.Connection(context)
    connection.set_accept_state()
    server = TLSTransport(inner, connection, Deadlines(Clock()), 10)
    server._records = twin.Records(connection, Scratch())
    return server


@patient
@given(says=SAYS, cut=st.sampled_from([1, 7, 100, 16384, 65536]))
def test_with_either_tls_does_what_twisteds_does(
    twins: Twins, fresh: Callable[[], SSL.Context], says: list[bytes], cut: int
) -> None:
    context = fresh()
    expected = played(theirs, context, says, cut)
    for twin in twins:
        assert played(lambda shared, inner: built(twin, shared, inner), context, says, cut) == expected  # noqa: B023


class Cutting(Protocol):
    """Loses its connection in the middle of being given something, as `Stream.cut` does it."""

    server: Any

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def dataReceived(self, data: bytes) -> None:
        self.calls.append(data)
        if data == b"first":
            self.server.connectionLost(Failure(ConnectionLost()))
            self.server.write(b"too late")

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.calls.append(reason.type)


def test_a_connection_that_is_lost_while_it_is_read_is_asked_nothing_more(
    twins: Twins, fresh: Callable[[], SSL.Context]
) -> None:
    for twin in twins:
        inner, client, pipe = Cutting(), MemoryClient(), Pipe()
        inner.server = server = built(twin, fresh(), inner)
        server.makeConnection(pipe)
        converse(client, server, pipe, whole)
        server.dataReceived(client.send(b"first") + client.send(b"second") + client.send(b"third")[:-1])
        assert inner.calls == [b"first", b"second", ConnectionLost]
        server.dataReceived(b"and more")
        assert (server.version, server._records) == ("", None)


# -- ALPN ---------------------------------------------------------------------------------------------------

NAMES = st.sampled_from([b"h2", b"http/1.1", b"http/1.0", b"h", b"h2c", b"x" * 255])


def agreed(twin: Any, context: SSL.Context, offered: list[bytes], listed: list[bytes]) -> bytes | str:
    """What both ends agree on; or, in OpenSSL's words, why they do not."""
    twin.offer(context, offered)
    connection, client = SSL.Connection(context), MemoryClient("example.org", *(n.decode() for n in listed))
    connection.set_accept_state()
    records = twin.Records(connection, Scratch())
    records.feed(client.out())
    try:
        if records.shake() != twin.WANT_READ:
            connection._raise_ssl_error(connection._ssl, records.count)
    except SSL.Error as error:
        assert records.written()[-2:] == b"\x02\x78", "the alert no_application_protocol, and fatal"
        return words_of(error)
    client.take(records.written())
    client.out()
    assert client.done
    return connection.get_alpn_proto_negotiated()


@patient
@given(offered=st.lists(NAMES, unique=True, min_size=1), listed=st.lists(NAMES, unique=True))
def test_the_first_offered_protocol_that_the_client_lists_is_chosen(
    twins: Twins, fresh: Callable[[], SSL.Context], offered: list[bytes], listed: list[bytes]
) -> None:
    common = [each for each in offered if each in listed]
    expected = common[0] if common else "no application protocol" if listed else b""
    for twin in twins:
        assert agreed(twin, fresh(), offered, listed) == expected


@pytest.mark.parametrize("wrong", [b"", b"x" * 256])
def test_a_protocol_that_nobody_can_list_is_refused(
    twins: Twins, fresh: Callable[[], SSL.Context], wrong: bytes
) -> None:
    for twin in twins:
        with pytest.raises(ValueError, match="byte"):
            twin.offer(fresh(), [b"h2", wrong])


# -- Other bindings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", SPOILED)
def test_bindings_that_tell_no_addresses_leave_everything_to_python(twins: Twins, spoil: str) -> None:
    program = FOREIGN.format(spoil=spoil, file=str(twins.compiled.__file__))
    home = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=home, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == (
        "rproxy.native.tlsbytes_in_python rproxy.native.tlsbytes_in_python\n",
        "",
    )


def test_the_bindings_in_use_tell_them(twins: Twins) -> None:
    assert twins.compiled.Records.__module__ != "rproxy.native.tlsbytes_in_python"
