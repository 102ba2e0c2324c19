"""Who a certificate says it is, and who is let in by that (G-4, G-5)."""

from __future__ import annotations

import os
from itertools import product

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from rproxy.policy.identity import (
    MOST_BYTES,
    MOST_SUBJECT,
    Authorized,
    ClientPolicy,
    Identity,
    Shown,
    escaped,
    identity_of,
)
from tests.clientcerts import CN, EMAIL, ORG, authority, named, signed

ROOT = authority("Root", 1)


def identity(subject: x509.Name | str, *names: x509.GeneralName) -> Identity:
    more = [x509.SubjectAlternativeName(names)] if names else []
    return identity_of(signed(subject, ROOT, more=more).certificate)


# -- what it says


@pytest.mark.parametrize(
    ("common_name", "groups"),
    [
        ("jbranham@admin", ("admin",)),
        ("a@b@admin", ("admin",)),
        ("jbranham", ()),
        ("jbranham@", ()),
        ("@admin", ()),
        ("@", ()),
        ("admin", ()),
        ("j b@ad min", ("ad min",)),
        ("j@Ädmin", ("Ädmin",)),
        ("j@admin\n", ("admin\n",)),
    ],
)
def test_the_group_is_what_is_behind_the_last_at_of_the_common_name(
    common_name: str, groups: tuple[str, ...]
) -> None:
    found = identity(common_name)
    assert found.groups == groups
    assert found.common_name == found.key == common_name
    assert found.names == (common_name,)


@pytest.mark.parametrize(
    "subject",
    [
        named((CN, "bob"), (CN, "root@admin")),
        named((CN, "root@admin"), (CN, "root@admin")),
        x509.Name(
            [
                x509.RelativeDistinguishedName(
                    [x509.NameAttribute(CN, "root@admin"), x509.NameAttribute(CN, "bob")]
                )
            ]
        ),
    ],
    ids=["two", "the same twice", "one of two values"],
)
def test_of_several_common_names_none_counts(subject: x509.Name) -> None:
    found = identity(subject)
    assert (found.groups, found.names, found.common_name) == ((), (), "")
    assert found.key == found.subject != ""


def test_a_subject_without_a_common_name_has_no_name_and_no_group() -> None:
    found = identity(named((ORG, "x@admin")))
    assert (found.groups, found.names) == ((), ())
    assert found.key == "O=x@admin"


def test_mail_addresses_uris_and_dns_names_are_names_and_give_no_group() -> None:
    found = identity(
        "bob@ops",
        x509.DNSName("web.example.org"),
        x509.UniformResourceIdentifier("spiffe://example.org/web"),
        x509.RFC822Name("bob@admin"),
        x509.DirectoryName(named((CN, "root@admin"))),
        x509.OtherName(NameOID.COMMON_NAME, b"\x0c\x04root"),
    )
    assert found.names == ("bob@ops", "bob@admin", "spiffe://example.org/web", "web.example.org")
    assert found.groups == ("ops",)


def test_der_says_the_same_as_the_certificate() -> None:
    certificate = signed("bob@admin", ROOT).certificate
    der = certificate.public_bytes(Encoding.DER)
    assert identity_of(der) == identity_of(certificate)
    assert identity_of(der).certificate == der
    assert "certificate" not in repr(identity_of(der))


# -- how the subject is written


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (named((ORG, "Acme"), (CN, "bob@admin")), "CN=bob@admin,O=Acme"),
        (named((CN, "a,b+c=d;e<f>g")), "CN=a\\,b\\+c=d\\;e\\<f\\>g"),
        (named((CN, ' #"\\ ')), 'CN=\\ #\\"\\\\\\ '),
        (named((CN, "#1")), "CN=\\#1"),
        (named((CN, "a\r\nX-Evil: b")), "CN=a\\0D\\0AX-Evil: b"),
        (named((CN, "a\0b\x7f\x1b")), "CN=a\\00b\\7F\\1B"),
        (named((CN, "Lučić")), "CN=Lu\\C4\\8Di\\C4\\87"),
        (named((EMAIL, "a@b.c")), "emailAddress=a@b.c"),
        (x509.Name([]), ""),
    ],
)
def test_a_subject_is_printable_ascii_as_rfc_4514_has_it(name: x509.Name, text: str) -> None:
    assert escaped(name) == text
    assert identity(name).subject == text


@given(st.text(min_size=1, max_size=64).filter(lambda text: len(text.encode("utf-8", "ignore")) > 0))
def test_whatever_a_common_name_holds_the_subject_fits_in_a_header_and_can_be_read_back(text: str) -> None:
    try:
        name = named((CN, text))
        name.public_bytes()
    except (ValueError, UnicodeEncodeError):  # lone surrogates
        return
    written = escaped(name)
    assert all(" " <= c <= "~" for c in written)
    assert _unescaped(written.removeprefix("CN=")) == text


def _unescaped(text: str) -> str:
    """RFC 4514 §3, for one value."""
    found, at = bytearray(), 0
    while at < len(text):
        if text[at] != "\\":
            found += text[at].encode()
            at += 1
        elif text[at + 1] in '\\"+,;<># =':
            found += text[at + 1].encode()
            at += 2
        else:
            found.append(int(text[at + 1 : at + 3], 16))
            at += 3
    return found.decode()


# -- what cannot be read


def test_what_is_no_certificate_is_refused_in_words() -> None:
    der = signed("bob@admin", ROOT).certificate.public_bytes(Encoding.DER)
    for octets in (b"", b"x", der[:-1], der[1:], der + b"x"):
        with pytest.raises(ValueError, match="the certificate cannot be read"):
            identity_of(octets)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_identity_or_refused(octets: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        identity_of(octets)


def test_a_name_that_cannot_be_read_refuses_the_whole() -> None:
    """OpenSSL takes it, and shows the part that it could read."""
    broken = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30\x03\x82\x01\xff")
    with pytest.raises(ValueError, match="cannot be read"):
        identity_of(signed("bob@admin", ROOT, more=[broken]).certificate)


def test_a_kind_of_name_that_is_not_supported_refuses_the_whole() -> None:
    x400 = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30\x02\xa3\x00")
    with pytest.raises(ValueError, match="cannot be read"):
        identity_of(signed("bob@admin", ROOT, more=[x400]).certificate)


def _with_padding(size: int) -> x509.Certificate:
    padding = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), os.urandom(size))
    return signed("bob@admin", ROOT, more=[padding]).certificate


def test_a_certificate_has_a_most() -> None:
    around = len(_with_padding(MOST_BYTES // 2).public_bytes(Encoding.DER)) - MOST_BYTES // 2
    assert identity_of(_with_padding(MOST_BYTES - around - 8)).groups == ("admin",)
    with pytest.raises(ValueError, match=f"{MOST_BYTES} are the most"):
        identity_of(_with_padding(MOST_BYTES - around + 8))


def test_a_subject_has_a_most() -> None:
    def subject(count: int) -> x509.Name:
        return x509.Name([x509.NameAttribute(ORG, "x" * 62)] * count)  # 64 with "O=", and a comma

    assert len(identity(subject(MOST_SUBJECT // 65)).subject) == MOST_SUBJECT // 65 * 65 - 1
    with pytest.raises(ValueError, match=f"{MOST_SUBJECT} are the most"):
        identity(subject(MOST_SUBJECT // 65 + 1))


# -- who is let in


BOB = Identity("CN=bob@admin", ("bob@admin", "bob@example.org", "spiffe://x/bob"), ("admin",), "bob@admin")


@pytest.mark.parametrize(
    ("groups", "names", "allowed"),
    [
        ((), (), True),
        (("admin",), (), True),
        (("ops", "admin"), (), True),
        (("ops",), (), False),
        (("Admin",), (), False),
        (("admi",), (), False),
        (("bob",), (), False),
        (("bob@admin",), (), False),
        ((), ("bob@admin",), True),
        ((), ("bob@example.org",), True),
        ((), ("spiffe://x/bob",), True),
        ((), ("spiffe://x/",), False),
        ((), ("bob",), False),
        ((), ("admin",), False),
        ((), ("CN=bob@admin",), False),
        ((), ("",), False),
        (("",), (), False),
        (("ops",), ("bob@admin",), True),
        (("admin",), ("ann",), True),
        (("ops",), ("ann",), False),
    ],
)
def test_one_group_or_one_name_is_enough_and_every_character_counts(
    groups: tuple[str, ...], names: tuple[str, ...], allowed: bool
) -> None:
    assert Authorized(groups, names).allows(BOB) is allowed
    assert Authorized(frozenset(groups), frozenset(names)).allows(BOB) is allowed


@pytest.mark.parametrize("groups", ["admin", "in"])
def test_a_group_is_never_a_part_of_another(groups: str) -> None:
    assert not Authorized((groups + "s",)).allows(BOB)
    assert not Authorized(("x" + groups,)).allows(BOB)


def test_a_text_given_for_a_list_lets_no_part_of_it_in() -> None:
    assert not Authorized("sysadmins").allows(BOB)
    assert not Authorized((), "xbob@adminx").allows(BOB)


def test_who_is_unknown_is_let_in_where_nobody_is_named() -> None:
    assert Authorized().allows(None)
    assert not Authorized(("admin",)).allows(None)
    assert not Authorized((), ("bob",)).allows(None)


def test_a_policy_wants_a_certificate_unless_it_is_optional() -> None:
    for required, named_group in product((True, False), ((), ("admin",))):
        policy = ClientPolicy("app", None, required, Authorized(named_group))
        assert policy.allows(BOB)
        assert policy.allows(None) is not (required or bool(named_group))
    assert not ClientPolicy("app", authorized=Authorized(("ops",))).allows(BOB)


def test_policies_are_equal_by_value_and_differ_by_app_and_by_authority() -> None:
    assert ClientPolicy("a", "ca") == ClientPolicy("a", "ca")
    assert ClientPolicy("a", "ca") != ClientPolicy("b", "ca")
    assert ClientPolicy("a", "ca") != ClientPolicy("a", "other")


def test_what_is_shown_is_told_in_full_only_where_that_is_wanted() -> None:
    plain, full = ClientPolicy("a"), ClientPolicy("a", sends_certificate=True)
    known = identity_of(signed("bob@admin", ROOT).certificate)
    for policy, certificate in ((plain, b""), (full, known.certificate)):
        shown = Shown(policy)
        assert shown.told == (None, b"")
        shown.identity = known
        assert shown.told == ("CN=bob@admin", certificate)


def test_an_empty_subject_is_told_as_such() -> None:
    shown = Shown(ClientPolicy("a"))
    shown.identity = identity(x509.Name([]), x509.DNSName("web"))
    assert shown.told == ("", b"")


def test_whether_a_client_is_served_is_asked_once_per_connection() -> None:
    class Counting(ClientPolicy):
        asked = 0

        def allows(self, identity: Identity | None) -> bool:
            type(self).asked += 1
            return super().allows(identity)

    for who, allowed in ((BOB, True), (None, False)):
        Counting.asked = 0
        shown = Shown(Counting("app"))
        shown.identity = who
        assert [shown.allowed, shown.allowed, shown.allowed] == [allowed] * 3
        assert Counting.asked == 1
