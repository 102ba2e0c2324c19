"""What the schema knows and this version does not do; to build a feature is to delete its row. For `load`.

A key that would be ignored is worse than a file that does not load, so each of these is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from rproxy.config.mistakes import Mistake, Path


class Row(NamedTuple):
    """A key, `*` standing for any name, that is refused; `fine` are values that change nothing."""

    key: str
    feature: str
    fine: tuple[object, ...] = ()


NOT_YET: Final = (
    Row("listen_port", "clear-text HTTP"),
    Row("listen", "clear-text HTTP"),
    Row("public_https_port", "redirects to https"),
    Row("trusted_forwarded_proxies", "HTTP"),
    Row("request_max_body_size", "HTTP"),
    Row("redact_query_in_access_log", "HTTP", fine=(False,)),
    Row("sticky_cookie_secret", "HTTP"),
    Row("max_concurrent_streams", "HTTP/2"),
    Row("workers", "more than one process", fine=(1,)),
    Row("default_app", "clear-text HTTP"),
    Row("default_application", "clear-text HTTP"),
    Row("apps.*.tls", "TLS termination"),
    Row("apps.*.reverse_proxy", "HTTP"),
    Row("l4", "TCP services with client certificates"),
    Row("acme", "certificates by ACME"),
    Row("header_timeout", "HTTP"),
    Row("keepalive_timeout", "HTTP"),
    Row("response_timeout", "HTTP"),
    Row("body_timeout", "HTTP"),
    Row("min_body_rate", "HTTP"),
    Row("upgrade_idle_timeout", "HTTP"),
    Row("retries", "HTTP"),
    Row("keepalive", "HTTP"),
    Row("upstream_keepalive_timeout", "HTTP"),
    Row("ignore_sni_consistency", "HTTP", fine=(False,)),
    Row("state_directory", "certificates of our own"),
    Row("access_log", "a separate access log"),
    Row("apps.*.response_timeout", "HTTP"),
    Row("apps.*.body_timeout", "HTTP"),
    Row("apps.*.upgrade_idle_timeout", "HTTP"),
    Row("apps.*.retries", "HTTP"),
    Row("apps.*.keepalive", "HTTP"),
    Row("apps.*.upstream_keepalive_timeout", "HTTP"),
    Row("apps.*.request_max_body_size", "HTTP"),
    Row("apps.*.sticky_cookie", "HTTP"),
    Row("apps.*.request_headers", "HTTP"),
    Row("apps.*.response_headers", "HTTP"),
    Row("apps.*.error_pages", "HTTP"),
    Row("apps.*.access_log", "a separate access log"),
    Row("apps.*.allow_connect", "HTTP", fine=(False,)),
    Row("apps.*.https_redirection", "redirects to https"),
    Row("experimental.ignore_sni_consistency", "HTTP", fine=(False,)),
    Row("experimental.connection_handling_timeout", "HTTP", fine=(0,)),
    Row("experimental.h3", "HTTP/3"),
    Row("experimental.cache", "the response cache"),
    Row("experimental.acme", "certificates by ACME"),
)


def pending(table: dict[str, Any], rows: Sequence[Row] = NOT_YET) -> Iterator[Mistake]:
    """One mistake for each place in a file that asks for something not built yet."""
    for row in rows:
        for path, value in _matches(table, row.key.split("."), ()):
            if not any(value is fine or (value == fine and type(value) is type(fine)) for fine in row.fine):
                yield Mistake(
                    path, f"not supported yet ({row.feature})", "remove it, or put a # in front", at_key=True
                )


def _matches(node: object, keys: Sequence[str], path: Path) -> Iterator[tuple[Path, object]]:
    if not keys:
        yield path, node
    elif isinstance(node, dict):
        for key in list(node) if keys[0] == "*" else [keys[0]]:
            if key in node:
                yield from _matches(node[key], keys[1:], (*path, key))
    elif isinstance(node, list):
        for index, item in enumerate(node):
            yield from _matches(item, keys, (*path, index))
