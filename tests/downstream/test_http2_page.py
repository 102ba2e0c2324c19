"""Our own answers on a stream: the page, and the fields that say what it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock

from rproxy.downstream.http2_page import METHODS, page_of
from rproxy.errors import MethodNotAllowed, NoRoute, Redirect, Refusal
from rproxy.wire.message import BadRequest, bare_request

STREAM = SimpleNamespace(reactor=Clock())
ANSWERS = SimpleNamespace(page=lambda stream, refusal, request, site: (b"text/plain", b"page"))


def page(refusal: Refusal, method: bytes | None = b"GET") -> Any:
    request = bare_request(method, b"/") if method is not None else None
    return page_of(STREAM, ANSWERS, refusal, request, None)


def test_a_refusal_is_a_page() -> None:
    status, fields, body = page(NoRoute("app"))
    assert (status, body) == (404, b"page")
    assert dict(fields.pairs) == {
        b"content-type": b"text/plain",
        b"server": b"rproxy",
        b"date": b"Thu, 01 Jan 1970 00:00:00 GMT",
        b"content-length": b"4",
    }


@pytest.mark.parametrize("refusal", [Refusal("of no status"), NoRoute("app")])
def test_every_refusal_has_a_status(refusal: Refusal) -> None:
    assert page(refusal).status == (refusal.status or 500)


def test_head_has_the_length_and_not_the_page() -> None:
    answer = page(NoRoute("app"), b"HEAD")
    assert (answer.body, dict(answer.fields.pairs)[b"content-length"]) == (b"", b"4")


def test_what_never_was_a_request_has_a_page_too() -> None:
    assert page(BadRequest("no"), None).body == b"page"


def test_a_redirect_says_where_to() -> None:
    answer = page(Redirect(308, b"https://a/"))
    assert (answer.status, dict(answer.fields.pairs)[b"location"]) == (308, b"https://a/")


def test_methods_that_are_allowed_are_listed() -> None:
    assert dict(page(MethodNotAllowed("TRACE")).fields.pairs)[b"allow"] == METHODS
