"""txacme's certificate store over our registry: a certificate is on disk before anybody is told of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.python.filepath import FilePath
from txacme.store import DirectoryStore  # type: ignore[import-untyped]

from rproxy.services.acme_registry import Registry


class CertificateStore(DirectoryStore):
    """Implements `ICertificateStore`. `changed` is called with a label once its new certificate is on disk.

    txacme's own leaves keys readable for everybody, and does not sync them.
    """

    def __init__(self, registry: Registry, changed: Callable[[str], None]) -> None:
        super().__init__(FilePath(str(registry.certificates)))
        self._registry, self._changed = registry, changed

    def store(self, server_name: str, pem_objects: Sequence[Any]) -> Deferred[None]:
        """txacme's call: a key and its chain, in one file, so that they always belong together."""
        content = b"".join(each.as_bytes() for each in pem_objects)
        written = self._registry.write(self._registry.path(server_name), content)
        return written.addCallback(lambda _: self._changed(server_name))

    def as_dict(self) -> Deferred[dict[str, Any]]:
        """txacme's call: everything there is."""
        if not self.path.isdir():
            return succeed({})
        found: Deferred[dict[str, Any]] = super().as_dict()
        return found
