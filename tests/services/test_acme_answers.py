"""What stands in an authority's answers: what has to be there is, or the answer makes no sense."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.web.http_headers import Headers

from rproxy.services.acme_answers import (
    MOST_AUTHORIZATIONS,
    base64url,
    json_object,
    moment,
    renewal_id,
    text,
    texts,
)
from rproxy.services.acme_http import Reply
from rproxy.services.acme_problems import AcmeError, Kind


def refused(call: Any, *arguments: Any) -> str:
    """What is said about an answer of no use."""
    with pytest.raises(AcmeError) as caught:
        call(*arguments)
    assert caught.value.kind is Kind.UNREACHABLE, "worth another attempt: nobody has decided anything"
    return caught.value.words


def test_an_answer_is_a_json_object() -> None:
    assert json_object(Reply(200, Headers(), b'{"a": [1]}'), "an order") == {"a": [1]}


@pytest.mark.parametrize("body", [b"", b"[]", b'"a"', b"null", b"{", b"\xff", b"<html>"])
def test_any_other_answer_is_told_by_what_it_was_for(body: bytes) -> None:
    assert "for an order is not a JSON object" in refused(
        json_object, Reply(200, Headers(), body), "an order"
    )


def test_a_text_is_there_and_is_a_text() -> None:
    assert text({"url": "https://ca.example/1"}, "url") == "https://ca.example/1"
    for document in ({}, {"url": None}, {"url": 1}, {"url": ["x"]}):
        assert '"url"' in refused(text, document, "url")


def test_a_list_of_texts_is_there_and_has_nothing_else_in_it() -> None:
    assert texts({"names": ["a", "b"]}, "names") == ["a", "b"]
    for found in (None, "a", [], ["a", 1], {"a": 1}):
        assert '"names"' in refused(texts, {"names": found}, "names")


def test_a_list_has_an_end() -> None:
    many = ["a"] * MOST_AUTHORIZATIONS
    assert texts({"names": many}, "names") == many
    assert str(len(many) + 1) in refused(texts, {"names": [*many, "a"]}, "names")


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("1970-01-01T00:01:00Z", 60.0),
        ("1970-01-01T00:01:00.5+00:00", 60.5),
        ("1970-01-01T02:00:00+02:00", 0.0),
    ],
)
def test_a_moment_is_of_rfc_3339(written: str, seconds: float) -> None:
    assert moment({"start": written}, "start") == seconds


@pytest.mark.parametrize(
    "window",
    [None, [], {}, {"start": 1}, {"start": "soon"}, {"start": "1970-01-01T00:00:00"}, {"start": None}],
    ids=repr,
)
def test_a_moment_that_is_none_is_not_guessed(window: Any) -> None:
    assert "window" in refused(moment, window, "start")


def certificate(serial: int, issuer_key: bytes | None) -> x509.Certificate:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    builder = x509.CertificateBuilder(
        x509.Name([]), x509.Name([]), key.public_key(), serial, now, now + timedelta(days=1)
    )
    if issuer_key is not None:
        identifier = x509.AuthorityKeyIdentifier(issuer_key, None, None)
        builder = builder.add_extension(identifier, critical=False)
    return builder.sign(key, hashes.SHA256())


@pytest.mark.parametrize(
    ("serial", "octets"), [(1, b"\1"), (0x7F, b"\x7f"), (0x80, b"\0\x80"), (0x8000, b"\0\x80\0")]
)
def test_a_certificate_is_named_by_its_issuers_key_and_its_serial_as_in_der(
    serial: int, octets: bytes
) -> None:
    issuer, _, number = renewal_id(certificate(serial, b"key")).partition(".")
    assert [urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in (issuer, number)] == [b"key", octets]


def test_a_certificate_without_its_issuers_key_has_no_name() -> None:
    assert "issuer's key" in refused(renewal_id, certificate(1, None))


def test_base64_is_for_addresses_and_without_padding() -> None:
    assert [base64url(octets) for octets in (b"", b"\xff", b"\xfb\xff", b"\xfb\xff\xff")] == [
        "", "_w", "-_8", "-___"
    ]  # fmt: skip
