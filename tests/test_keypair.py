"""Certificates and keys from files: every kind that works, and a sentence for everything that does not."""

from __future__ import annotations

import os
from pathlib import Path
from time import process_time
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from rproxy.keypair import MOST_BYTES, load_pair
from tests.tlspeers import OLD, PKCS8, days, key_of, key_pem, make


@pytest.mark.parametrize("kind", ["ec", "p384", "rsa", "ed25519"])
def test_pkcs8_keys_are_read(tmp_path: Path, kind: str) -> None:
    made = make("example.org", key=kind)
    pair = load_pair(*made.write(tmp_path, "a"))
    assert pair.leaf == made.certificate
    assert pair.key.public_key() == made.key.public_key()
    assert pair.names == ("example.org",)
    assert pair.concerns(days(0)) == []


@pytest.mark.parametrize(("kind", "label"), [("rsa", b"RSA PRIVATE KEY"), ("ec", b"EC PRIVATE KEY")])
def test_pkcs1_and_sec1_keys_are_read(tmp_path: Path, kind: str, label: bytes) -> None:
    made = make("example.org", key=kind)
    certificate, key = made.write(tmp_path, "a")
    key.write_bytes(key_pem(made.key, OLD))
    assert label in key.read_bytes()
    assert load_pair(certificate, key).leaf == made.certificate


def test_a_sec1_key_behind_its_parameters_is_read(tmp_path: Path) -> None:
    made = make("example.org")
    certificate, key = made.write(tmp_path, "a")
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    key.write_bytes(parameters + key_pem(made.key, OLD))
    assert load_pair(certificate, key).leaf == made.certificate


def test_the_first_key_of_a_file_counts(tmp_path: Path) -> None:
    made = make("example.org")
    certificate, key = made.write(tmp_path, "a")
    key.write_bytes(made.key_pem + key_pem(key_of("ec", 9)))
    assert load_pair(certificate, key).key.public_key() == made.key.public_key()


def test_certificate_and_key_may_be_in_one_file_with_text_around(tmp_path: Path) -> None:
    made = make("example.org")
    both = tmp_path / "both.pem"
    both.write_bytes(b"Bag Attributes\n" + made.key_pem + b"subject=example.org\r\n" + made.pem)
    both.chmod(0o600)
    assert load_pair(both, both).leaf == made.certificate


def test_the_chain_stays_in_the_order_of_the_file(tmp_path: Path) -> None:
    root = make(ca=True, number=1)
    middle = make(ca=True, number=2, issuer=root)
    leaf = make("example.org", issuer=middle)
    pair = leaf.pair(tmp_path, "a", middle, root)
    assert pair.chain == leaf.pem + middle.pem + root.pem
    assert pair.leaf == leaf.certificate


def _miscalculating() -> Any:
    """A key that looks like one, until it signs."""
    good = key_of("rsa").private_numbers()
    numbers = rsa.RSAPrivateNumbers(
        p=good.p,
        q=good.q,
        d=good.d ^ 4,
        dmp1=good.dmp1 ^ 4,
        dmq1=good.dmq1,
        iqmp=good.iqmp,
        public_numbers=good.public_numbers,
    )
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


def _broken(tmp_path: Path) -> dict[str, tuple[Any, Any, str]]:
    """Certificate path, key path, and the sentence."""
    made, other = make("example.org"), make("example.org", number=5)
    certificate, key = made.write(tmp_path, "good")
    _, other_key = other.write(tmp_path, "other")

    def file(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        path.chmod(0o600)
        return path

    secret = file("secret", key_pem(made.key, PKCS8, b"x"))
    old_secret = file("old_secret", key_pem(key_of("rsa"), OLD, b"x"))
    der = file("der", made.certificate.public_bytes(serialization.Encoding.DER))
    middle = make(ca=True, number=2)
    wrong_order = file("order", middle.pem + make("example.org", issuer=middle).pem)
    damaged = file("damaged", made.pem + made.pem.replace(b"M", b"N", 3))
    half_key = file("half", made.key_pem[:60] + b"\n-----END PRIVATE KEY-----\n")
    kind = "a kind that cannot be used: RSA, ECDSA on P-256, P-384 or P-521, and Ed25519 can"
    return {
        "missing": (tmp_path / "no", key, f"cannot read {tmp_path}/no: No such file or directory"),
        "directory": (tmp_path, key, f"cannot read {tmp_path}: Is a directory"),
        "key missing": (
            certificate,
            tmp_path / "no",
            f"cannot read {tmp_path}/no: No such file or directory",
        ),
        "empty": (file("empty", b" \n"), key, f"{tmp_path}/empty is empty"),
        "empty key": (certificate, file("empty2", b""), f"{tmp_path}/empty2 is empty"),
        "not PEM": (
            file("text", b"hello"),
            key,
            f"{tmp_path}/text holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)",
        ),
        "DER": (
            der,
            key,
            f"{der} is not PEM; if it is DER, `openssl x509 -inform der -in {der}` prints it as PEM",
        ),
        "key not PEM": (
            certificate,
            file("text2", b"hello"),
            f"{tmp_path}/text2 holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)",
        ),
        "interchanged": (
            key,
            certificate,
            f"{key} holds a private key and no certificate; perhaps the two paths are interchanged",
        ),
        "certificate for key": (
            certificate,
            certificate,
            f"{certificate} holds a certificate and no private key; perhaps the two paths are interchanged",
        ),
        "encrypted": (
            certificate,
            secret,
            f"the key in {secret} is encrypted; `openssl pkey -in {secret}` prints it decrypted",
        ),
        "encrypted PKCS#1": (
            certificate,
            old_secret,
            f"the key in {old_secret} is encrypted; `openssl pkey -in {old_secret}` prints it decrypted",
        ),
        "damaged": (damaged, key, f"certificate 2 in {damaged} is damaged"),
        "damaged key": (certificate, half_key, f"the key in {half_key} is damaged"),
        "damaged RSA key": (
            certificate,
            file("wrong", key_pem(_miscalculating())),
            f"the key in {tmp_path}/wrong is damaged",
        ),
        "mismatch": (
            certificate,
            other_key,
            f"the key in {other_key} does not belong to the certificate in {certificate}",
        ),
        "order": (
            wrong_order,
            key,
            f"the key in {key} belongs to certificate 2 in {wrong_order};"
            " the server's own has to be the first",
        ),
        "short RSA": (
            certificate,
            file("rsa", key_pem(key_of("rsa1024"))),
            f"the RSA key in {tmp_path}/rsa has 1024 bits; 2048 are the least",
        ),
        "curve": (
            certificate,
            file("koblitz", key_pem(key_of("koblitz"))),
            f"the key in {tmp_path}/koblitz is on the curve secp256k1, {kind}",
        ),
        "Ed448": (
            certificate,
            file("ed448", key_pem(key_of("ed448"))),
            f"the key in {tmp_path}/ed448 is of {kind}",
        ),
        "DSA": (
            certificate,
            file("dsa", key_pem(key_of("dsa"))),
            f"the key in {tmp_path}/dsa is of {kind}",
        ),
        "too large": (
            file("large", made.pem + b"\n" * MOST_BYTES),
            key,
            f"{tmp_path}/large is larger than 1 MiB, so it is no PEM file of ours",
        ),
    }


BROKEN = [
    "missing",
    "directory",
    "key missing",
    "empty",
    "empty key",
    "not PEM",
    "DER",
    "key not PEM",
    "interchanged",
    "certificate for key",
    "encrypted",
    "encrypted PKCS#1",
    "damaged",
    "damaged key",
    "damaged RSA key",
    "mismatch",
    "order",
    "short RSA",
    "curve",
    "Ed448",
    "DSA",
    "too large",
]


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_used_is_told_in_one_sentence(tmp_path: Path, case: str) -> None:
    certificate, key, sentence = _broken(tmp_path)[case]
    with pytest.raises(ValueError) as raised:
        load_pair(certificate, key)
    assert str(raised.value) == sentence


def test_every_sentence_has_its_test(tmp_path: Path) -> None:
    assert set(_broken(tmp_path)) == set(BROKEN)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_somebody_else_is_told(tmp_path: Path) -> None:
    certificate, key = make("example.org").write(tmp_path, "a")
    key.chmod(0)
    with pytest.raises(ValueError, match=r"cannot read .*: Permission denied"):
        load_pair(certificate, key)


@pytest.mark.parametrize(
    ("begins", "ends", "words"),
    [
        (-30, -1, "has expired on"),
        (1, 30, "is not valid before"),
        (-30, 3, "expires on"),
    ],
)
def test_a_certificate_outside_its_time_is_used_with_a_warning(
    tmp_path: Path, begins: int, ends: int, words: str
) -> None:
    pair = make("example.org", begins=days(begins), ends=days(ends)).pair(tmp_path, "a")
    (concern,) = pair.concerns(days(0))
    assert words in concern
    assert str(tmp_path / "a.pem") in concern


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_a_key_that_others_may_use_is_warned_about(tmp_path: Path, mode: int, warned: bool) -> None:
    certificate, key = make("example.org").write(tmp_path, "a")
    key.chmod(mode)
    concerns = load_pair(certificate, key).concerns(days(0))
    assert bool(concerns) == warned
    assert not warned or (f"mode {mode:04o}" in concerns[0] and f"chmod 600 {key}" in concerns[0])


@pytest.mark.parametrize(
    ("name", "covered"),
    [
        ("example.org", True),
        ("www.example.org", True),
        ("a.b.example.org", False),
        ("*.example.org", True),
        ("*.b.example.org", False),
        ("example.com", False),
        ("org", False),
        ("xample.org", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("upper.example.com", True),
    ],
)
def test_names_are_covered_exactly_or_by_a_wildcard_of_one_label(
    tmp_path: Path, name: str, covered: bool
) -> None:
    names = ("example.org", "*.example.org", "192.0.2.7", "Upper.Example.com")
    assert make(*names).pair(tmp_path, "a").covers(name) is covered


def test_the_common_name_covers_nothing(tmp_path: Path) -> None:
    pair = make(ca=True, number=3).pair(tmp_path, "a")
    assert pair.names == ()
    assert not pair.covers("authority 3")


def test_a_large_key_is_read_in_a_moment(tmp_path: Path) -> None:
    """Keys are read while connections are served; the library's own check of this one takes 400 ms."""
    files = make("example.org", key="rsa4096").write(tmp_path, "a")
    begun = process_time()
    load_pair(*files)
    assert process_time() - begun < 0.1


def test_its_text_never_shows_the_key(tmp_path: Path) -> None:
    assert "PRIVATE" not in repr(make("example.org").pair(tmp_path, "a"))
