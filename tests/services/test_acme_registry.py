"""The registry: private, whole, and forgiving to what others have left in it."""

from __future__ import annotations

import json
import os
import stat
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, maybeDeferred

from rproxy.keypair import load_pair
from rproxy.services.acme_registry import (
    Registry,
    authority_label,
    certificate_id,
    label_of,
    read_budget,
    read_record,
)
from rproxy.services.acme_schedule import Budget, Record
from tests.fakes import LogLines
from tests.tlspeers import Made, days, make

URL = "https://ca.example/Dir"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    old = os.umask(0)  # modes must not depend on it
    yield Registry(tmp_path / "acme", maybeDeferred)
    os.umask(old)


def done(deferred: Deferred[Any]) -> Any:
    results: list[Any] = []
    deferred.addBoth(results.append)
    return results[0]


def modes(directory: Path) -> dict[str, int]:
    return {
        str(path.relative_to(directory)): stat.S_IMODE(path.stat().st_mode) for path in directory.rglob("*")
    }


def put(path: Path, made: Made) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(made.key_pem + b"\n" + made.pem)
    return path


def test_everything_is_private_whatever_the_umask_says(registry: Registry) -> None:
    done(registry.write(registry.path("a.example"), b"x"))
    done(registry.keep_record("a.example", Record(failures=2)))
    done(registry.keep_budget(Budget({"a.example": (1.5, 2.5)})))
    registry.account_key(URL)
    assert modes(registry.directory) == {
        "certificates": 0o700,
        "certificates/a.example.pem": 0o600,
        "certificates/a.example.json": 0o600,
        "budget.json": 0o600,
        "accounts": 0o700,
        f"accounts/{authority_label(URL)}.pem": 0o600,
    }


def test_what_is_written_is_read(registry: Registry) -> None:
    record = Record("ca", "c", 1.5, (2.5, 3.5), True, "why", 4.5, 1, 2, 3, 5.5, "words", "kind", 6.5, "s")
    assert all(getattr(record, each.name) != each.default for each in fields(Record))
    done(registry.keep_record("a", record))
    assert registry.record("a") == record
    assert registry.record("b") == Record()
    done(registry.keep_budget(Budget({"a": (1.5,)})))
    assert registry.budget() == Budget({"a": (1.5,)})


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"[" * 10**5, b'{"failures": "x"}', b'{"window": [1]}', b"\xff"]
)
def test_a_damaged_record_or_budget_is_as_good_as_none(registry: Registry, content: bytes) -> None:
    registry.certificates.mkdir(parents=True)
    (registry.certificates / "a.json").write_bytes(content)
    (registry.directory / "budget.json").write_bytes(content)
    with LogLines() as log:
        assert registry.record("a") == Record()
        registry.budget()
    assert content in (b"", b"[]") or log.events


@given(
    st.dictionaries(
        st.sampled_from([each.name for each in fields(Record)]), st.none() | st.text() | st.floats()
    )
)
def test_any_json_gives_a_record(tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(content))
    assert isinstance(read_record(path), Record)
    assert isinstance(read_budget(path), Budget)


def test_an_account_keeps_its_key_and_each_authority_has_another(registry: Registry) -> None:
    first, again = registry.account_key(URL), registry.account_key(URL)
    other = registry.account_key(URL.lower())
    assert first.private_numbers() == again.private_numbers()
    assert first.private_numbers() != other.private_numbers(), "addresses differ in case"


@pytest.mark.parametrize("content", [b"oops", make("x", key="p384").key_pem, make("x", key="rsa").key_pem])
def test_a_key_that_is_no_accounts_is_not_replaced(registry: Registry, content: bytes) -> None:
    registry.account_key(URL)
    (path,) = (registry.directory / "accounts").iterdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match="remove it to get a new account"):
        registry.account_key(URL)
    assert path.read_bytes() == content


def test_a_stored_pair_is_found_and_made_private(registry: Registry) -> None:
    path = put(registry.path("a.example"), make("a.example"))
    path.chmod(0o644)
    with LogLines() as log:
        pair = registry.pair("a.example")
    assert pair is not None
    assert pair.names == ("a.example",)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert log.texts("rproxy") == [f"{path} could be read by others; now it cannot"]
    assert registry.pair("b.example") is None


def test_a_damaged_pair_is_told_and_not_used(registry: Registry) -> None:
    registry.certificates.mkdir(parents=True)
    registry.path("a.example").write_bytes(b"oops")
    with LogLines() as log:
        assert registry.pair("a.example") is None
    (line,) = log.texts("rproxy")
    assert line.endswith("; another is ordered")


def test_a_certificate_of_another_label_is_taken_over(registry: Registry) -> None:
    """As when the app's names are put into another order."""
    put(registry.path("b.example"), make("b.example", "x.example"))
    best = put(registry.path("c.example"), make("b.example", "a.example", ends=days(3)))
    put(registry.path("d.example"), make("b.example", "a.example", ends=days(2)))
    done(registry.keep_record("c.example", Record(authority="https://staging.example")))
    put(registry.path("e.example"), make("e.example"))
    pair = registry.adopt("a.example", ["a.example", "b.example"], [URL])
    assert pair is not None
    assert pair.key_path == str(best)
    assert registry.path("a.example").read_bytes() == best.read_bytes()
    assert modes(registry.certificates)["a.example.pem"] == 0o600
    assert registry.record("a.example").authority == "https://staging.example", "where it came from is known"
    assert registry.adopt("z.example", ["z.example"], [URL]) is None
    assert not registry.path("z.example").exists()


def test_a_certificate_without_a_usable_key_is_not_taken_over(registry: Registry) -> None:
    put(registry.path("b.example"), make("a.example")).write_bytes(make("a.example").pem)
    (registry.certificates / "x.pem").write_bytes(
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
    )
    (registry.certificates / "dir.pem").mkdir()
    with LogLines() as log:
        assert registry.adopt("a.example", ["a.example"], [URL]) is None
    assert "cannot take over" in log.texts("rproxy")[0]


@pytest.mark.parametrize("written", [URL, URL.lower()])
def test_what_rpxy_has_left_is_taken_over(registry: Registry, written: str) -> None:
    mark = urlsafe_b64encode(sha256(b"a.example\0" + written.encode()).digest()).decode().rstrip("=")
    made = make("a.example")
    put(registry.directory / "a.example" / f"cached_cert_{mark}", made)
    pair = registry.adopt("a.example", ["a.example"], [URL])
    assert pair is not None
    taken = load_pair(registry.path("a.example"), registry.path("a.example"))
    assert taken.leaf == made.certificate


def test_what_rpxy_got_elsewhere_is_left_alone(registry: Registry) -> None:
    mark = urlsafe_b64encode(sha256(b"a.example\0https://staging.example").digest()).decode().rstrip("=")
    put(registry.directory / "a.example" / f"cached_cert_{mark}", make("a.example"))
    assert registry.adopt("a.example", ["a.example"], [URL]) is None


def test_files_that_are_not_ours_to_read_are_told(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", "x")

    monkeypatch.setattr(Path, "open", refuse)
    with LogLines() as log:
        assert registry.record("a") == Record()
    assert "Permission denied" in log.texts("rproxy")[0]


def test_a_label_is_the_first_name_and_fits_into_a_file_name() -> None:
    assert label_of(("b.example", "a.example")) == "b.example"
    long = ".".join(["a" * 63] * 3 + ["b" * 61])
    assert len(long) == 253
    assert len(label_of((long,))) == 200
    assert label_of((long,)) != label_of((long[:-1] + "c",))


@pytest.mark.parametrize("name", ["../x", ".x", "a/b", "", "*.example", "A", "a\0b", "-", "a."])
def test_a_name_that_leads_elsewhere_is_no_label(name: str) -> None:
    with pytest.raises(ValueError):
        label_of((name,))


def test_authorities_have_names_that_fit_into_a_file_name() -> None:
    assert authority_label("https://ca.example:14000/dir").startswith("ca.example_14000+")
    assert authority_label("https://x/../../y") != authority_label("https://x/")
    assert "/" not in authority_label("https://a/b") + authority_label("https://" + "/" * 9)
    assert len(authority_label("https://" + "a" * 999)) < 240


def test_certificates_differ_in_their_id() -> None:
    first, second = make("a"), make("a")
    assert certificate_id(first.certificate) != certificate_id(second.certificate)


def test_a_failed_write_leaves_the_old_file(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    done(registry.keep_record("a", Record(failures=1)))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = done(registry.keep_record("a", Record(failures=2)))
    assert isinstance(result.value, OSError)
    assert registry.record("a") == Record(failures=1)
    assert [path.name for path in registry.certificates.iterdir()] == ["a.json"]


def test_a_new_account_key_is_of_a_kind_that_every_authority_takes(registry: Registry) -> None:
    key = registry.account_key(URL)
    assert isinstance(key.curve, ec.SECP256R1)
    assert replace(Record(), turn=1).turn == 1
