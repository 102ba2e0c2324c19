"""Our store is txacme's: the interface, the files, and who is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pem
import pytest
from twisted.internet.defer import Deferred, maybeDeferred
from txacme.interfaces import ICertificateStore  # type: ignore[import-untyped]
from txacme.store import DirectoryStore  # type: ignore[import-untyped]

from rproxy.services.acme_registry import Registry
from rproxy.services.acme_store import CertificateStore
from tests.tlspeers import make


def done(deferred: Deferred[Any]) -> Any:
    results: list[Any] = []
    deferred.addBoth(results.append)
    return results[0]


def test_it_is_a_directory_store_and_tells_what_has_changed(tmp_path: Path) -> None:
    told: list[str] = []
    registry = Registry(tmp_path / "r", maybeDeferred)
    store = CertificateStore(registry, lambda label: told.append(label) if registry.pair(label) else None)
    assert isinstance(store, DirectoryStore)
    assert ICertificateStore.providedBy(store)
    assert done(store.as_dict()) == {}
    made = make("a.example")
    objects = [pem.Key(made.key_pem), pem.Certificate(made.pem)]
    done(store.store("a.example", objects))
    assert told == ["a.example"], "when it is on disk already"
    assert done(store.as_dict()).keys() == {"a.example"}
    assert [type(each) for each in done(store.get("a.example"))] == [pem.PrivateKey, pem.Certificate]


def test_what_cannot_be_written_is_told_to_nobody(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("a file where a folder should be")
    told: list[str] = []
    store = CertificateStore(Registry(tmp_path / "r", maybeDeferred), told.append)
    with pytest.raises(OSError):
        done(store.store("a.example", [pem.Key(b"")])).raiseException()
    assert told == []
