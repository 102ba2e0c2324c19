"""OpenSSL asked in Python and in Cython: the same bytes, ends and errors, and nothing left behind."""

from __future__ import annotations

import gc
import socket
import sys
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.bindings.openssl.binding import Binding
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from rproxy.openssl import Scratch, use_pair, words_of
from tests.native.twins import Twins, outcome, patient
from tests.tlspeers import MemoryClient, Sealing, make, trusting_nobody

RECORD, MOST = 16384, 7 * 16384
NONE, SSL_ERROR, WANT_READ, ZERO_RETURN = 0, 1, 2, 6
SIZES = [1, 2, RECORD - 1, RECORD, RECORD + 1, 2 * RECORD, 2 * RECORD + 1, 4 * RECORD, MOST - 1, MOST]
"""Around one record, and the most that is encrypted at a time."""
OLD_CIPHER = b"ECDHE-ECDSA-AES128-SHA256"
"""Adds up to 69 bytes to a record: an IV, a MAC and padding."""

Twin = Any


@pytest.fixture(params=["python", "compiled"])
def twin(request: pytest.FixtureRequest, twins_of: Callable[[str], Twins]) -> Twin:
    return getattr(twins_of("tlsbytes"), request.param)


def context_of(folder: Path, **choices: Any) -> SSL.Context:
    made = SSL.Context(SSL.TLS_SERVER_METHOD)
    for name, value in choices.items():
        getattr(made, name)(value)
    use_pair(made, make("example.org").pair(folder, "a"))
    return made


@pytest.fixture(scope="module")
def twins(twins_of: Callable[[str], Twins]) -> Twins:
    return twins_of("tlsbytes")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SSL.Context:
    return context_of(tmp_path_factory.mktemp("site"))


@pytest.fixture
def context(tmp_path: Path) -> SSL.Context:
    return context_of(tmp_path)


class Served:
    """A server's records and a client, with the handshake behind them unless told otherwise."""

    def __init__(self, twin: Twin, context: SSL.Context, client: MemoryClient | None = None) -> None:
        self.connection = SSL.Connection(context)
        self.connection.set_accept_state()
        self.records = twin.Records(self.connection, Scratch())
        self.client = client or MemoryClient()

    def shaken(self) -> Served:
        ends = []
        while not self.client.done or NONE not in ends:
            self.records.feed(self.client.out())
            ends.append(self.records.shake())
            self.client.take(self.records.written())
        assert ends[0] == WANT_READ
        return self

    def all_opened(self, data: bytes) -> Iterator[bytes]:
        """As `tls` asks for it."""
        while plain := self.records.opened(data):
            yield plain
            if not self.records.left:
                return
            data = b""

    def words(self) -> str:
        with pytest.raises(SSL.Error) as found:
            self.connection._raise_ssl_error(self.connection._ssl, self.records.count)
        return words_of(found.value)


@pytest.fixture
def served(twin: Twin, context: SSL.Context) -> Served:
    return Served(twin, context).shaken()


def frames(octets: bytes) -> list[int]:
    """The sizes of the records in these bytes."""
    found, at = [], 0
    while at < len(octets):
        found.append(5 + int.from_bytes(octets[at + 3 : at + 5], "big"))
        at += found[-1]
    assert at == len(octets)
    return found


def test_both_have_the_same_names(twins: Twins) -> None:
    python, compiled = twins
    for name in ("RECORD", "MOST", "NONE", "WANT_READ", "ZERO_RETURN"):
        assert getattr(python, name) == getattr(compiled, name)
    assert (RECORD, MOST) == (python.RECORD, python.MOST)
    for name in ("WANT_READ", "ZERO_RETURN"):
        assert getattr(python, name) == getattr(Binding.lib, f"SSL_ERROR_{name}")
    public = {name for name in vars(python.Records) if not name.startswith("_")}
    assert public == {name for name in dir(compiled.Records) if not name.startswith("_")}
    assert compiled.Records is not python.Records


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_the_version_has_a_name(twin: Twin, tmp_path: Path, version: int) -> None:
    context = context_of(tmp_path, set_min_proto_version=version, set_max_proto_version=version)
    expected = {SSL.TLS1_2_VERSION: "TLSv1.2", SSL.TLS1_3_VERSION: "TLSv1.3"}
    served = Served(twin, context).shaken()
    assert (type(served.records.version()), served.records.version()) == (str, expected[version])


# -- Encrypting ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cipher", [b"", b"ECDHE-ECDSA-AES128-GCM-SHA256", OLD_CIPHER], ids=bytes.decode)
def test_bytes_of_any_size_arrive_in_full_records(twin: Twin, tmp_path: Path, cipher: bytes) -> None:
    old = {"set_max_proto_version": SSL.TLS1_2_VERSION, "set_cipher_list": cipher} if cipher else {}
    served = Served(twin, context_of(tmp_path, **old)).shaken()
    for size in SIZES:
        octets = bytes(range(251)) * (size // 251 + 1)
        sealed = served.records.sealed(octets[:size], 0)
        assert (served.records.ended, served.records.taken) == (NONE, size)
        assert len(frames(sealed)) == -(-size // RECORD)
        served.client.got = b""
        served.client.take(sealed)
        assert served.client.got == octets[:size]


def test_both_add_the_same_to_records(twins: Twins, context: SSL.Context) -> None:
    python, compiled = (Served(twin, context).shaken().records for twin in twins)
    for size in [0, *SIZES, MOST + 1, 1 << 20]:
        octets = b"x" * size
        assert frames(python.sealed(octets, 0)) == frames(compiled.sealed(octets, 0))


@pytest.mark.parametrize("rest", [700, RECORD + 700])
def test_more_than_the_most_is_taken_in_parts(served: Served, rest: int) -> None:
    octets, at = (bytes(range(251)) * 1200)[: 2 * MOST + rest], 0
    while at < len(octets):
        served.client.take(served.records.sealed(octets, at))
        assert served.records.taken == min(MOST, len(octets) - at)
        at += served.records.taken
    assert served.client.got == octets


def test_what_openssl_says_itself_comes_first(twin: Twin, context: SSL.Context) -> None:
    for size in (0, 1, RECORD + 1):
        served = Served(twin, context)
        served.records.feed(served.client.out())
        served.records.shake()
        served.client.take(served.records.written())
        served.records.feed(served.client.out())
        assert served.records.shake() == NONE  # there are session tickets now
        served.client.take(served.records.sealed(b"x" * size, 0) + served.records.written())
        served.client.take(b"")
        assert served.client.got == b"x" * size


@pytest.mark.parametrize("at", [-1, 4, 1 << 40, -(1 << 63)])
def test_offsets_outside_are_refused(served: Served, at: int) -> None:
    with pytest.raises(ValueError, match="outside of the bytes"):
        served.records.sealed(b"xyz", at)
    assert served.records.sealed(b"xyz", 3) == b""


def test_what_cannot_be_sent_any_more_is_not_taken(served: Served) -> None:
    assert served.records.goodbye() is False
    for size in (1, 2 * RECORD):
        assert frames(served.records.sealed(b"x" * size, 0)) in ([24], [])  # the close alert, once
        assert (served.records.ended, served.records.taken) == (SSL_ERROR, 0)
        assert served.words() == "protocol is shutdown"


# -- Decrypting ---------------------------------------------------------------------------------------------


@patient
@given(
    sizes=st.lists(st.one_of(st.integers(1, 40), st.integers(RECORD - 1, RECORD)), min_size=1, max_size=6),
    cut=st.sampled_from([1, 5, 21, 1000, RECORD + 22, 65536]),
)
def test_records_come_one_by_one_however_they_are_cut(
    twins: Twins, site: SSL.Context, sizes: list[int], cut: int
) -> None:
    for twin in twins:
        served, got = Served(twin, site).shaken(), list[int]()
        said = b"".join(served.client.send(b"x" * size) for size in sizes)
        for at in range(0, len(said), cut):
            got += map(len, served.all_opened(said[at : at + cut]))
        assert got == sizes
        assert served.records.opened(b"") == b""
        assert (served.records.ended, served.records.left) == (WANT_READ, False)


def test_what_is_left_behind_a_record_is_told(served: Served) -> None:
    first, second = served.client.send(b"first"), served.client.send(b"second")
    assert served.records.opened(first + second[:3]) == b"first"
    assert (served.records.ended, served.records.left) == (NONE, True)
    assert served.records.opened(b"") == b""
    assert (served.records.ended, served.records.left) == (WANT_READ, False)
    assert served.records.opened(second[3:]) == b"second"
    assert (served.records.ended, served.records.left) == (NONE, False)


def test_answers_are_told(twin: Twin, context: SSL.Context, tmp_path: Path) -> None:
    asking = trusting_nobody()
    asking.keylog_filename = str(tmp_path / "keys")
    served = Served(twin, context, MemoryClient(context=asking)).shaken()
    client = Sealing(served.client, tmp_path / "keys")
    assert (served.records.opened(client.said(b"x")), served.records.answers) == (b"x", False)
    for number, answers in enumerate([False, True]):  # OpenSSL answers when it is called again
        plain = served.records.opened(client.new_keys() + client.said(b"y"))
        assert (plain, served.records.answers) == (b"y", answers), number
    assert len(served.records.written()) == 27
    flood = b"".join(client.new_keys() for _ in range(3000))
    served.records.opened(flood)
    assert served.records.answers
    answer = served.records.written()
    assert len(answer) > 2 * 2 * RECORD, "more than there is room for at once"
    assert frames(answer) == [27] * 3000  # those before the last, and the one from above
    assert served.records.written() == b""


@pytest.mark.parametrize("request_too", [True, False])
def test_tickets_wait_for_the_answer_to_a_request(
    twin: Twin, context: SSL.Context, request_too: bool
) -> None:
    served = Served(twin, context)
    served.records.feed(served.client.out())
    served.records.shake()
    served.client.take(served.records.written())
    finished = served.client.out()
    served.records.feed(finished + served.client.send(b"request") if request_too else finished)
    assert served.records.shake() == NONE
    served.records.opened(b"")
    assert served.records.answers is not request_too
    assert served.records.written() != b""


def test_a_goodbye_is_told_and_answered(served: Served) -> None:
    last = served.client.send(b"last") + served.client.goodbye()
    assert served.records.opened(last) == b"last"
    assert served.records.left
    assert served.records.opened(b"") == b""
    assert (served.records.ended, served.records.count) == (ZERO_RETURN, 0)
    assert served.records.goodbye() is True
    served.client.take(served.records.written())
    assert served.client.closed


@pytest.mark.parametrize("done", [True, False])
def test_bytes_that_are_no_record_are_the_same_error(twins: Twins, context: SSL.Context, done: bool) -> None:
    words = []
    for twin in twins:
        served = Served(twin, context)
        if done:
            served.shaken()
            assert served.records.opened(b"GET / HTTP/1.1\r\n\r\n") == b""
        else:
            served.records.feed(b"GET / HTTP/1.1\r\n\r\n")
            assert served.records.shake() == SSL_ERROR
        assert (served.records.ended, served.records.count) == (SSL_ERROR, -1)
        words.append(served.words())
    assert words[0] == words[1] != ""


def test_an_error_of_somebody_elses_is_not_taken_for_ours(served: Served) -> None:
    def elsewhere() -> None:
        assert Binding.lib.BIO_new_file(b"/nowhere/at/all", b"r") == Binding.ffi.NULL
        assert Binding.lib.ERR_peek_error()

    elsewhere()
    assert served.records.opened(b"") == b""
    assert served.records.ended == WANT_READ
    elsewhere()
    assert served.records.sealed(b"x", 0) != b""
    assert served.records.ended == NONE
    elsewhere()
    assert served.records.shake() == NONE
    elsewhere()
    assert served.records.goodbye() is False
    assert not Binding.lib.ERR_peek_error()


# -- What they hold -----------------------------------------------------------------------------------------


def test_the_connection_lives_as_long_as_its_records(twin: Twin, context: SSL.Context) -> None:
    served = Served(twin, context).shaken()
    records, there = served.records, weakref.ref(served.connection)
    said = served.client.send(b"still there")
    del served
    gc.collect()
    assert there() is not None
    assert records.opened(said) == b"still there"
    del records
    assert there() is None, "nothing else holds it, and no cycle"


def test_a_connection_with_a_socket_is_refused(twin: Twin, context: SSL.Context) -> None:
    ours, other = socket.socketpair()
    with ours, other, pytest.raises(TypeError, match="has a socket"):
        twin.Records(SSL.Connection(context, ours), Scratch())


@pytest.mark.parametrize("wrong", ["text", 1])
def test_only_bytes_are_taken(served: Served, wrong: Any) -> None:
    for call in (served.records.feed, served.records.opened, lambda data: served.records.sealed(data, 0)):
        assert outcome(call, wrong)[0] == "raises"


def test_nothing_is_left_behind(served: Served) -> None:
    octets = b"x" * 70_000
    held = sys.getrefcount(octets)

    def conversation() -> None:
        sealed = served.records.sealed(octets, 0)
        assert sys.getrefcount(sealed) == 2
        opened = list(served.all_opened(served.client.send(octets[:RECORD])))
        assert [sys.getrefcount(each) for each in opened] == [3]  # the list's, the loop's, the call's
        assert outcome(served.records.sealed, octets, 1 << 40)[0] == "raises"

    conversation()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(50):
            conversation()
        assert tracemalloc.get_traced_memory()[0] - before < 20_000
    finally:
        tracemalloc.stop()
    assert sys.getrefcount(octets) == held
