"""Error pages: small, in the form the client asked for, and never with a word of the client's in them."""

import json
import os
from http import HTTPStatus
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.errors import StartError
from rproxy.services.pages import HTML, JSON, MAX_PAGE, TEXT, Pages, preferred, read_page, request_ids
from tests.fakes import open_files

FIREFOX = b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
CHROME = FIREFOX[:-12] + b"image/avif,image/webp,image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7"
ID = "0123456789abcdef"
STATUSES = [status.value for status in HTTPStatus if status >= 300]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, TEXT), (b"", TEXT), (b"*/*", TEXT), (b"image/png", TEXT), (b",,;", TEXT),
        (FIREFOX, HTML), (CHROME, HTML), (b"TEXT/HTML", HTML), (b" text/html ; q=0.1", HTML),
        (b"text/html;level=1;q=0.5,text/plain", TEXT), (b"text/html;q=0.5, */*;q=0.8", TEXT),
        (b"text/html;q=0", TEXT), (b"text/html;q=0,application/json;q=0.001", JSON),
        (b"application/json", JSON), (b"application/json, text/plain, */*", JSON),
        (b"application/json;q=0.5, text/plain", TEXT), (b"text/html,application/json", HTML),
        (b"application/json;charset=utf-8", JSON), (b"text/*", TEXT),
        (b"text/*;q=0.2,application/json;q=0.1", TEXT),
        (b"text/plain;q=0.1,text/*,application/json;q=0.2", JSON),
        (b"text/html;q=1.001", TEXT), (b"text/html;q=-1", TEXT), (b"text/html;q=", TEXT),
        (b"text/html;q=0.1234", TEXT),
        (b"text/html;q=nan", TEXT), (b"text/html;q=1e9", TEXT), (b"text/html;q=1.000", HTML),
        (b"texthtml", TEXT),
    ],
)  # fmt: skip
def test_the_form_that_a_client_prefers(accept, kind):
    assert preferred(accept) is kind


def test_a_field_that_is_too_long_gets_text():
    assert preferred(b"text/html,".ljust(1024, b"x")) is HTML
    assert preferred(b"text/html,".ljust(1025, b"x")) is TEXT


def test_only_the_first_ranges_are_read():
    assert preferred(b"a/b," * 31 + b"text/html") is HTML
    assert preferred(b"a/b," * 32 + b"text/html") is TEXT


@given(st.binary() | st.text("texhmlaion/*,;q=0.15 \t").map(str.encode))
def test_any_accept_gets_one_of_the_three(accept):
    assert preferred(accept) in (HTML, JSON, TEXT)


@pytest.mark.parametrize("accept", [b"text/html", b"application/json", b"*/*"])
@pytest.mark.parametrize("status", [*STATUSES, 599, 600, 499])
def test_every_page_is_tiny_and_says_status_reason_and_request(accept, status):
    kind, body = Pages().render(status, "upstream_connect_refused", ID, accept)
    assert len(body) < 600
    assert str(status).encode() in body
    assert b"upstream_connect_refused" in body
    assert ID.encode() in body
    assert b"{" not in body or kind is JSON
    assert body.isascii()
    assert body.endswith(b"\n")


def test_a_page_of_each_kind():
    text = (
        b"404 Not Found\nThere is nothing here for this name and path.\nreason: no_route\nrequest: "
        + ID.encode()
    )
    assert Pages().render(404, "no_route", ID) == (TEXT, text + b"\n")
    kind, body = Pages().render(404, "no_route", ID, b"application/json")
    assert (kind, json.loads(body)) == (
        JSON,
        {
            "status": 404,
            "error": "Not Found",
            "reason": "no_route",
            "message": "There is nothing here for this name and path.",
            "request_id": ID,
        },
    )
    kind, body = Pages().render(404, "no_route", ID, FIREFOX)
    assert kind == b"text/html; charset=utf-8"
    assert b"<title>404 Not Found</title><h1>404 Not Found</h1>" in body


def test_sentences_tell_the_failures_of_a_backend_apart():
    pages = {Pages().render(status, "x", ID)[1] for status in (404, 502, 503, 504)}
    assert len(pages) == 4


def test_a_status_without_a_sentence_of_its_own_has_that_of_its_class():
    assert b"418 Refused\n" in Pages().render(418, "x", ID)[1]
    assert b"507 Error\n" in Pages().render(507, "x", ID)[1]


@pytest.mark.parametrize("accept", [b"text/html", b"application/json", b"*/*"])
def test_nothing_that_is_put_in_becomes_markup_or_a_line(accept):
    own = Pages({"4xx": b"{reason}|{request_id}"})
    for pages in (Pages(), own):
        _, body = pages.render(404, '<script>"\r\nX: y', "<b>'&\n", accept)
        assert b"<script" not in body or accept != b"text/html"
        assert b"<b>" not in body or accept != b"text/html"
        assert b"\nX: y" not in body or accept == b"text/html"
    if accept == b"application/json":
        assert json.loads(body)["reason"] == '<script>"\r\nX: y'


def test_pages_of_an_app_by_status_then_by_class():
    pages = Pages({"404": b"a {status} {reason} {request_id} {other} b{", "4xx": b"four", "5xx": b""})
    assert pages.render(404, "no_route", ID, FIREFOX)[1] == f"a 404 no_route {ID} {{other}} b{{".encode()
    assert pages.render(403, "x", ID, FIREFOX)[1] == b"four"
    assert pages.render(502, "x", ID, FIREFOX)[1] == b""
    assert b"Moved" in pages.render(301, "x", ID, FIREFOX)[1]


def test_pages_of_an_app_are_for_those_who_read_html():
    pages = Pages({"404": b"<p>own"})
    assert pages.render(404, "x", ID, b"application/json")[0] is JSON
    assert pages.render(404, "x", ID, b"*/*")[1].startswith(b"404 Not Found\n")


@given(st.binary(max_size=200))
def test_a_page_without_placeholders_goes_out_as_it_is(page):
    if not any(name in page for name in (b"{status}", b"{reason}", b"{request_id}")):
        assert Pages({"404": page}).render(404, "x", ID, b"text/html")[1] == page


def test_files_are_read_up_to_their_limit(tmp_path):
    file = tmp_path / "a.html"
    file.write_bytes(b"x" * MAX_PAGE)
    assert read_page(file) == b"x" * MAX_PAGE
    file.write_bytes(b"x" * (MAX_PAGE + 1))
    with pytest.raises(StartError, match=r"a\.html has more than 64 KiB"):
        read_page(file)


def test_what_cannot_be_a_page_is_refused_with_its_name(tmp_path):
    os.mkfifo(tmp_path / "pipe.html")
    (tmp_path / "latin.html").write_bytes(b"\xe9")
    for name, why in [
        ("none.html", "cannot be read: No such file"), ("pipe.html", "is not a file"),
        ("", "cannot be read: Is a directory"), ("latin.html", "is not UTF-8"),
    ]:  # fmt: skip
        with pytest.raises(StartError, match=f"error_pages: .*{name} {why}"):
            read_page(tmp_path / name)


def test_no_file_stays_open_when_a_page_is_refused(tmp_path):
    before = open_files("/")
    for _ in range(3):
        with pytest.raises(StartError):
            read_page(tmp_path)
    assert open_files("/") <= before


def test_request_ids_are_sixteen_hex_digits_and_all_different():
    made = [request_ids(Random(seed)) for seed in range(20)]
    ids = [new() for new in made for _ in range(100)]
    assert len(set(ids)) == len(ids)
    assert all(len(number) == 16 and int(number, 16) >= 0 for number in ids)


class Highest(Random):
    def getrandbits(self, k):
        return (1 << k) - 1


def test_request_ids_keep_their_length_when_the_count_begins_again():
    new = request_ids(Highest())
    assert [new(), new()] == ["ffffffffffffffff", "ffffffff00000000"]
