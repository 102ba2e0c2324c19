"""What OpenSSL is given and what it says: certificates with their chains, errors in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from OpenSSL import SSL

from rproxy.keypair import KeyPair
from rproxy.openssl import use_pair, words_of
from tests.tlspeers import make


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[KeyPair, KeyPair]:
    folder: Path = tmp_path_factory.mktemp("pairs")
    return make("a.example").pair(folder, "a"), make("b.example", number=1).pair(folder, "b")


def open_certificates() -> int:
    """The files in memory that certificates are read from."""
    return sum("memfd:certificate" in str(path.resolve()) for path in Path("/proc/self/fd").iterdir())


def test_a_pair_is_what_the_context_shows_and_no_file_is_left_open(pairs: tuple[KeyPair, KeyPair]) -> None:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    use_pair(context, pairs[0])
    context.check_privatekey()
    assert open_certificates() == 0


def test_a_pair_that_does_not_fit_is_refused_and_no_file_is_left_open(
    pairs: tuple[KeyPair, KeyPair],
) -> None:
    for wrong in (replace(pairs[0], key=pairs[1].key), replace(pairs[0], chain=b"no certificate")):
        with pytest.raises(SSL.Error):
            use_pair(SSL.Context(SSL.TLS_SERVER_METHOD), wrong)
    assert open_certificates() == 0


def test_errors_are_told_in_words() -> None:
    assert (
        words_of(SSL.Error([("", "", "first"), ("SSL routines", "", "no shared cipher")]))
        == "no shared cipher"
    )
    assert words_of(SSL.Error([])) == "the other side left"
    assert words_of(SSL.SysCallError(-1, "Unexpected EOF")) == "the other side left"
    assert words_of(RuntimeError("anything")) == "anything"
