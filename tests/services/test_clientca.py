"""Client authorities and revocation lists: what is read, what is refused with a sentence, who gets in."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from rproxy.policy.identity import ClientPolicy, Shown
from rproxy.services import clientca
from rproxy.services.certificates import server_context
from rproxy.services.clientca import MOST_BETWEEN, MOST_HINTS, MOST_LIST_BYTES, ClientFiles
from tests.clientcerts import CN, ORG, SERVER, authority, named, revoking, signed, together
from tests.tlspeers import Made, age, days, key_of, make

ROOT, OTHER = authority("Root", 1), authority("Other", 2)
BETWEEN = authority("Between", 3, ROOT)
BOB, ANN = signed("bob@admin", ROOT), signed("ann@ops", BETWEEN)
SERVER_PAIR = make("example.org")
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def files(
    folder: Path, authorities: bytes = ROOT.pem, lists: bytes | None = None, *, required: bool = True
) -> ClientFiles:
    """A source with this in its files."""
    (folder / "ca.crt").write_bytes(authorities)
    if lists is not None:
        (folder / "ca.crl").write_bytes(lists)
    return ClientFiles(folder / "ca.crt", folder / "ca.crl" if lists is not None else None, required)


@dataclass
class Met:
    """How a handshake went."""

    done: bool
    shown: Shown
    alert: str = ""
    asked_for: tuple[bytes, ...] = ()

    @property
    def subject(self) -> str:
        return self.shown.identity.subject if self.done and self.shown.identity is not None else ""


def meet(source: ClientFiles, *chain: Made, version: ssl.TLSVersion = V13) -> Met:
    """Let a client with this chain shake hands."""
    folder = source.authorities.parent
    context = server_context("app", (SERVER_PAIR.pair(folder, "server"),), (), source.load())
    server = SSL.Connection(context)
    shown = Shown(ClientPolicy("app"))
    server.set_app_data(shown)
    server.set_accept_state()
    client_context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    client_context.set_min_proto_version(version)
    client_context.set_max_proto_version(version)
    if chain:
        client_context.use_certificate_chain_file(
            str(chain[0].write(folder, "client", *chain[1:])[0]).encode()
        )
        client_context.use_privatekey_file(str(folder / "client.key").encode())
    client = SSL.Connection(client_context)
    client.set_connect_state()
    done, alert = _shake(client, server)
    hints = tuple(name.der() for name in client.get_client_ca_list())
    return Met(done, shown, alert, hints)


def _shake(client: SSL.Connection, server: SSL.Connection) -> tuple[bool, str]:
    """Whether the server is content, and the alert that the client gets."""
    done = False
    for _ in range(6):
        try:
            client.do_handshake() if not done else client.read(1)
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            return False, error.args[0][-1][-1]
        _carry(client, server)
        try:
            server.do_handshake()
            done = True
        except SSL.WantReadError:
            pass
        except SSL.Error:
            done = False
            _carry(server, client)
            try:
                client.do_handshake()
                client.read(1)
            except SSL.Error as error:
                return False, error.args[0][-1][-1]
        _carry(server, client)
    return done, ""


def _carry(sender: SSL.Connection, receiver: SSL.Connection) -> None:
    try:
        while octets := sender.bio_read(65536):
            receiver.bio_write(octets)
    except SSL.WantReadError:
        pass


# -- who is let in


@pytest.mark.parametrize("version", [V12, V13])
def test_who_is_signed_by_an_authority_of_the_file_is_let_in_and_known(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    met = meet(files(tmp_path), BOB, version=version)
    assert met.subject == "CN=bob@admin"
    assert met.shown.identity.groups == ("admin",)
    assert met.shown.problem == ""


@pytest.mark.parametrize("version", [V12, V13])
def test_without_a_certificate_only_where_it_is_optional(tmp_path: Path, version: ssl.TLSVersion) -> None:
    met = meet(files(tmp_path), version=version)
    assert not met.done
    assert met.alert.endswith("certificate required" if version is V13 else "handshake failure")
    met = meet(files(tmp_path, required=False), version=version)
    assert met.done
    assert met.shown.identity is None


def test_each_authority_of_a_bundle_counts(tmp_path: Path) -> None:
    source = files(tmp_path, OTHER.pem + b"# words between\n" + ROOT.pem + OTHER.pem)
    assert len(source.load().authorities) == 2
    assert meet(source, BOB).done
    assert meet(source, signed("x", OTHER)).done


def test_two_keys_of_one_name_count_both(tmp_path: Path) -> None:
    """As while an authority changes its key; key identifiers tell them apart, for OpenSSL as for others."""
    keys = [key_of("ec", number).public_key() for number in (1, 7)]
    old, new = [
        authority("Root", number, more=[x509.SubjectKeyIdentifier.from_public_key(key)])
        for number, key in zip((1, 7), keys, strict=True)
    ]
    source = files(tmp_path, old.pem + new.pem)
    for issuer, key in zip((old, new), keys, strict=True):
        issued = [x509.AuthorityKeyIdentifier.from_issuer_public_key(key)]
        assert meet(source, signed("bob", issuer, more=issued)).done
    files(tmp_path, old.pem + new.pem, revoking(old) + revoking(new)).load()


def test_intermediates_come_from_the_client_or_from_the_file(tmp_path: Path) -> None:
    assert meet(files(tmp_path), ANN, BETWEEN).subject == "CN=ann@ops"
    assert not meet(files(tmp_path), ANN).done
    assert meet(files(tmp_path, ROOT.pem + BETWEEN.pem), ANN).done


def test_an_intermediate_alone_is_an_authority_and_its_root_is_not(tmp_path: Path) -> None:
    """As in rpxy: what stands in the file is trusted, whoever has signed it."""
    source = files(tmp_path, BETWEEN.pem)
    assert meet(source, ANN).done
    assert meet(source, ANN, BETWEEN).done
    assert not meet(source, BOB).done
    assert not meet(source, BOB, ROOT).done


def test_an_authority_is_no_client_by_being_one(tmp_path: Path) -> None:
    leaf = signed("web", ROOT)
    assert not meet(files(tmp_path), signed("x", leaf), leaf).done


@pytest.mark.parametrize("count", [MOST_BETWEEN, MOST_BETWEEN + 1])
def test_a_chain_has_a_longest(tmp_path: Path, count: int) -> None:
    chain = [authority("I0", 10, ROOT)]
    for number in range(1, count):
        chain.insert(0, authority(f"I{number}", 10 + number, chain[0]))
    met = meet(files(tmp_path), signed("x", chain[0]), *chain)
    assert met.done is (count == MOST_BETWEEN)
    if not met.done:
        assert met.shown.problem.startswith("certificate chain too long")


REFUSED = {
    "certificate has expired": signed("old", ROOT, ends=days(-1)),
    "certificate is not yet valid": signed("early", ROOT, begins=days(1)),
    "unable to get local issuer certificate": signed("x", OTHER),
    "self-signed certificate": signed("bob@admin", None, number=9),
    "unsuitable certificate purpose": signed("server", ROOT, usage=SERVER),
    "certificate signature failure": signed("forged", authority("Root", 8)),
}


@pytest.mark.parametrize("version", [V12, V13])
@pytest.mark.parametrize("why", REFUSED)
def test_who_is_refused_is_told_why_and_remembered_by_no_name(
    tmp_path: Path, why: str, version: ssl.TLSVersion
) -> None:
    for required in (True, False):
        met = meet(files(tmp_path, required=required), REFUSED[why], version=version)
        assert not met.done
        assert met.shown.problem.startswith(why)
        assert met.subject == ""


def test_a_certificate_for_any_use_is_one_for_clients(tmp_path: Path) -> None:
    assert meet(files(tmp_path), signed("x", ROOT, usage=None)).done


def test_what_we_cannot_read_is_refused_though_openssl_can(tmp_path: Path) -> None:
    broken = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30\x03\x82\x01\xff")
    met = meet(files(tmp_path), signed("bob@admin", ROOT, more=[broken]))
    assert not met.done
    assert met.shown.identity is None
    assert met.shown.problem.startswith("the certificate cannot be read")
    assert met.alert.endswith("internal error")


def test_whatever_else_goes_wrong_refuses_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception of another kind than OpenSSL's would leave the handshake where it is."""

    def fails(certificate: object) -> None:
        raise RuntimeError("a\r\nb\x1bcé")

    monkeypatch.setattr(clientca, "identity_of", fails)
    met = meet(files(tmp_path), BOB)
    assert not met.done
    assert met.shown.problem == "a??b?c?"


def test_what_a_stranger_calls_himself_is_told_in_one_line_of_plain_text(tmp_path: Path) -> None:
    stranger = signed(named((ORG, "é" * 60), (CN, "x\r\n2026 all is well\x1b[0m")), OTHER)
    problem = meet(files(tmp_path), stranger).shown.problem
    assert problem.isascii()
    assert problem.isprintable()
    assert "CN=x\\0D\\0A2026 all is well\\1B[0m" in problem
    long = meet(files(tmp_path), signed(x509.Name([*named((ORG, "o" * 60))] * 50), OTHER)).shown.problem
    assert len(long) < 700
    assert "..., issued by CN=Other" in long


# -- what clients are told


def test_clients_are_told_which_authorities_count(tmp_path: Path) -> None:
    met = meet(files(tmp_path, ROOT.pem + OTHER.pem), BOB)
    assert set(met.asked_for) == {each.certificate.subject.public_bytes() for each in (ROOT, OTHER)}


def test_of_very_many_authorities_none_is_told(tmp_path: Path) -> None:
    many = [authority(f"Authority {number:04} {'x' * 40}", 1) for number in range(MOST_HINTS // 60)]
    together(tmp_path / "ca.crt", ROOT, *many)
    met = meet(ClientFiles(tmp_path / "ca.crt"), BOB)
    assert met.done
    assert met.asked_for == ()


# -- revocation


@pytest.mark.parametrize("version", [V12, V13])
def test_who_is_listed_is_refused_and_the_others_are_not(tmp_path: Path, version: ssl.TLSVersion) -> None:
    source = files(tmp_path, ROOT.pem, revoking(ROOT, BOB))
    met = meet(source, BOB, version=version)
    assert met.alert.endswith("certificate revoked")
    assert met.shown.problem == "certificate revoked: CN=bob@admin, issued by CN=Root"
    assert meet(source, signed("eve@admin", ROOT), version=version).done


def test_of_several_lists_each_counts(tmp_path: Path) -> None:
    eve = signed("eve", OTHER)
    source = files(tmp_path, ROOT.pem + OTHER.pem, revoking(ROOT, BOB) + revoking(OTHER, eve))
    assert not meet(source, BOB).done
    assert not meet(source, eve).done
    assert meet(source, signed("x", ROOT)).done
    assert meet(source, signed("x", OTHER)).done


def test_every_authority_of_a_chain_needs_a_list(tmp_path: Path) -> None:
    met = meet(files(tmp_path, ROOT.pem, revoking(ROOT)), ANN, BETWEEN)
    assert met.shown.problem == (
        f"unable to get certificate CRL: CN=ann@ops, issued by CN=Between; see {tmp_path}/ca.crl"
    )
    assert not meet(files(tmp_path, ROOT.pem, revoking(BETWEEN)), ANN, BETWEEN).done
    both = revoking(ROOT) + revoking(BETWEEN)
    assert meet(files(tmp_path, ROOT.pem, both), ANN, BETWEEN).done
    assert not meet(files(tmp_path, ROOT.pem, revoking(BETWEEN, ANN) + revoking(ROOT)), ANN, BETWEEN).done
    gone = revoking(BETWEEN) + revoking(ROOT, BETWEEN)
    assert not meet(files(tmp_path, ROOT.pem, gone), ANN, BETWEEN).done


def test_a_trusted_intermediate_needs_no_list_of_its_root(tmp_path: Path) -> None:
    source = files(tmp_path, BETWEEN.pem, revoking(BETWEEN))
    assert meet(source, ANN).done
    assert not meet(files(tmp_path, BETWEEN.pem, revoking(BETWEEN, ANN)), ANN).done


def test_an_authority_that_another_one_of_the_file_has_revoked_is_not_trusted(tmp_path: Path) -> None:
    """OpenSSL asks nobody about what stands in its store."""
    lists = revoking(ROOT, BETWEEN) + revoking(BETWEEN)
    source = files(tmp_path, ROOT.pem + BETWEEN.pem, lists)
    assert source.load().authorities == (ROOT.certificate,)
    assert not meet(source, ANN).done
    assert not meet(source, ANN, BETWEEN).done
    assert meet(source, BOB).done
    assert source.load().concerns(days(0)) == [
        f"{tmp_path}/ca.crt: CN=Between is revoked by {tmp_path}/ca.crl and not trusted"
    ]


def test_if_none_is_left_the_files_are_of_no_use(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"every authority in .* is revoked"):
        files(tmp_path, ROOT.pem, revoking(ROOT, ROOT)).load()


def test_a_list_that_is_out_of_date_refuses_all_of_its_authority_and_says_so(tmp_path: Path) -> None:
    late = revoking(ROOT, begins=days(-9), ends=days(-1))
    source = files(tmp_path, ROOT.pem + OTHER.pem, late + revoking(OTHER))
    met = meet(source, BOB)
    assert met.shown.problem.startswith("CRL has expired: CN=bob@admin, issued by CN=Root; see ")
    assert not met.done
    assert meet(source, signed("x", OTHER)).done
    (concern,) = source.load().overdue(days(0))
    assert f"{tmp_path}/ca.crl: the list of CN=Root has expired on " in concern
    assert source.load().overdue(days(-2)) == []


def test_a_list_that_is_signed_by_somebody_else_later_is_refused_by_openssl(tmp_path: Path) -> None:
    """Of an intermediate that only clients show, so that we cannot know better when we read it."""
    forged = revoking(BETWEEN, by=OTHER) + revoking(ROOT)
    met = meet(files(tmp_path, ROOT.pem, forged), ANN, BETWEEN)
    assert not met.done
    assert met.shown.problem.startswith("CRL signature failure")


# -- what is read


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "{path} is empty"),
        (b" \n", "{path} is empty"),
        (b"hello", "{path} holds no certificate in PEM form"),
        (
            ROOT.certificate.public_bytes(Encoding.DER),
            "{path} is not PEM; if it is DER, `openssl x509 -inform der -in {path}` prints it as PEM",
        ),
        (ROOT.pem + BOB.pem, "certificate 2 in {path}, CN=bob@admin, is no authority (it lacks CA:TRUE)"),
        (ROOT.pem + b"x" * (1 << 20), "{path} is larger than 1 MiB"),
        (OTHER.pem + ROOT.pem[:-40], "{path} has a block that is cut off, or is no certificate"),
        (OTHER.key_pem, "{path} has a block that is cut off, or is no certificate"),
        (ROOT.pem + revoking(ROOT), "{path} has a block that is cut off, or is no certificate"),
        (OTHER.pem + ROOT.pem.replace(b"\nM", b"\nX", 1), "certificate 2 in {path} is damaged"),
    ],
)
def test_what_is_wrong_with_a_file_of_authorities_is_told(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    source = files(tmp_path, content)
    with pytest.raises(ValueError) as caught:
        source.load()
    assert str(caught.value).startswith(sentence.format(path=tmp_path / "ca.crt"))


LIST = revoking(ROOT)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "{path} is empty"),
        (b"hello", "{path} holds no revocation list in PEM form"),
        (ROOT.pem, "{path} has a block that is cut off, or is no revocation list"),
        (LIST + revoking(OTHER)[:-40], "{path} has a block that is cut off, or is no revocation list"),
        (
            x509.load_pem_x509_crl(LIST).public_bytes(Encoding.DER),
            "{path} is not PEM; if it is DER, `openssl crl -inform der -in {path}` prints it as PEM",
        ),
        (LIST + LIST.replace(b"\nM", b"\nX", 1), "list 2 in {path} is damaged"),
        (revoking(ROOT, delta=True), "list 1 in {path} holds changes only (a delta CRL)"),
        (LIST + revoking(ROOT, by=OTHER), "list 2 in {path} is not signed by CN=Root, whose it says it is"),
        (LIST + b"x" * MOST_LIST_BYTES, "{path} is larger than 1 MiB"),
    ],
)
def test_what_is_wrong_with_a_file_of_lists_is_told(tmp_path: Path, content: bytes, sentence: str) -> None:
    source = files(tmp_path, ROOT.pem, content)
    with pytest.raises(ValueError) as caught:
        source.load()
    assert str(caught.value).startswith(sentence.format(path=tmp_path / "ca.crl"))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read .*/none\.crt: No such file or directory"):
        ClientFiles(tmp_path / "none.crt").load()


def test_an_authority_without_extensions_is_none(tmp_path: Path) -> None:
    """R-TLS-5: X.509 v3. One without a key identifier counts here."""
    old = (
        x509.CertificateBuilder(ROOT.certificate.subject, ROOT.certificate.subject, ROOT.key.public_key())
        .serial_number(1)
        .not_valid_before(days(-1))
        .not_valid_after(days(1))
        .sign(ROOT.key, hashes.SHA256())
    )
    with pytest.raises(ValueError, match="lacks CA:TRUE"):
        files(tmp_path, old.public_bytes(Encoding.PEM)).load()


def test_either_file_changes_the_fingerprint(tmp_path: Path) -> None:
    source = files(tmp_path, ROOT.pem, revoking(ROOT))
    known = source.fingerprint()
    assert source.fingerprint() == known
    for name in ("ca.crt", "ca.crl"):
        age(tmp_path / name, 5)
        assert source.fingerprint() != known
        known = source.fingerprint()


def test_two_that_trust_and_revoke_the_same_are_equal(tmp_path: Path) -> None:
    lists = revoking(ROOT, BOB)
    once = files(tmp_path, ROOT.pem, lists).load()
    assert files(tmp_path, b"\n\n" + ROOT.pem, lists).load() == once
    assert files(tmp_path, ROOT.pem, revoking(ROOT)).load() != once
    assert files(tmp_path, ROOT.pem + OTHER.pem, lists).load() != once


# -- what is told about them


def test_facts_name_some_authorities_and_count_the_revoked(tmp_path: Path) -> None:
    assert files(tmp_path).load().facts() == "CN=Root"
    many = b"".join(authority(f"A{number}", 1).pem for number in range(7))
    facts = files(tmp_path, many, revoking(OTHER, BOB, ANN)).load().facts()
    assert facts == "CN=A0, CN=A1, CN=A2, CN=A3, CN=A4 and 2 more; revoked certificates: 2"


def test_an_authority_without_a_list_is_a_concern(tmp_path: Path) -> None:
    found = files(tmp_path, ROOT.pem + OTHER.pem, revoking(ROOT)).load()
    assert found.concerns(days(0)) == [
        f"{tmp_path}/ca.crl has no list of CN=Other: its clients are refused",
    ]
    assert files(tmp_path, ROOT.pem + OTHER.pem).load().concerns(days(0)) == []


def test_an_authority_that_has_expired_is_a_concern_and_its_clients_are_refused(tmp_path: Path) -> None:
    old = authority("Old", 6, ends=days(-1))
    source = files(tmp_path, old.pem)
    (concern,) = source.load().concerns(datetime.now(UTC))
    assert "CN=Old has expired on" in concern
    assert not meet(source, signed("x", old)).done
