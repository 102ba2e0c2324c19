"""One line per request in four formats; what a client sends stays inside its field."""

import json as jsonlib
import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from rproxy.config.http import LogFormat
from rproxy.services import requestlog
from rproxy.services.lines import LineBatch
from rproxy.services.requestlog import (
    FORMATS,
    MOST_SHOWN,
    Client,
    RequestLog,
    Served,
    combined,
    common,
    json,
    redacted,
    rpxy,
)
from rproxy.wire.address import Unix, inet

WHEN = 1700000000.25
STAMPS = {"rpxy": "2023-11-14T22:13:20", "common": "14/Nov/2023:22:13:20 +0000"}
SHOWN = {
    "id": "0123456789abcdef",
    "client": Client(inet("192.168.1.1", 8080)),
    "host": b"example.com",
    "scheme": b"https",
    "method": b"GET",
    "path": b"/path?query=value",
    "version": 11,
    "status": 200,
    "size": 1234,
    "seconds": 0.0123456,
    "app": "site",
    "reason": "ok",
    "upstream": "https://backend.example.com",
    "upstream_path": b"/path?query=value",
    "upstream_seconds": 0.01,
    "tls": "TLSv1.3",
    "user_agent": b"Mozilla/5.0",
    "referer": b"https://example.com/",
    "forwarded_for": b"10.0.0.1",
    "forwarded": b"",
}
REQUEST = Served(**SHOWN)


def changed(**others):
    """The request with some things about it different."""
    return Served(**SHOWN | others)


def written(*requests, style="rpxy", **options):
    clock, lines = Clock(), []
    clock.advance(WHEN)
    log = RequestLog(LineBatch(clock, lines.append, "the log", None), style, **options)
    for request in requests:
        log.served(request, clock.seconds())
    log.flush()
    return b"".join(lines).decode("ascii")


def test_the_line_of_rpxy():
    """R-LOG-1, R-LOG-2."""
    assert written(REQUEST) == (
        "2023-11-14T22:13:20.250000Z "
        "example.com <- 192.168.1.1:8080 -- GET /path?query=value HTTP/1.1 -- 200 OK -- "
        'https://example.com/path "Mozilla/5.0", "10.0.0.1" "https://backend.example.com/path?query=value"\n'
    )


def test_the_line_of_rpxy_without_what_is_missing_and_with_what_is_rare():
    request = changed(
        scheme=b"", forwarded=b'for=10.0.0.1;host="a"', status=799, version=20, upstream_path=b"/x?y"
    )
    line = written(request).partition(" -- GET ")[2]
    assert line == (
        '/path?query=value HTTP/2.0 -- 799 -- /path "Mozilla/5.0", "10.0.0.1" '
        '"for=10.0.0.1;host=\\x22a\\x22" "https://backend.example.com/x?y"\n'
    )


def test_a_request_that_was_never_read():
    request = Served("1", Client(inet("::1", 5)), b"", b"", b"", b"", 0, 400, 0, 0.0, "-", "bad_request")
    assert written(request).partition("Z ")[2] == '- <- [::1]:5 -- - - - -- 400 Bad Request --  "", "" ""\n'
    assert written(request, style="common").endswith(' "-" 400 -\n')
    assert jsonlib.loads(written(request, style="json"))["upstream_time"] is None


def test_the_common_and_the_combined_log_format():
    start = '192.168.1.1 - - [14/Nov/2023:22:13:20 +0000] "GET /path?query=value HTTP/1.1" 200 1234'
    assert written(REQUEST, style="common") == start + "\n"
    assert written(REQUEST, style="combined") == start + ' "https://example.com/" "Mozilla/5.0"\n'
    bare = changed(referer=b"", user_agent=b"", size=0)
    assert written(bare, style="combined").endswith(' 200 - "-" "-"\n')


def test_json():
    assert jsonlib.loads(written(REQUEST, style="json")) == {
        "time": "2023-11-14T22:13:20.250Z",
        "id": "0123456789abcdef",
        "client": "192.168.1.1:8080",
        "host": "example.com",
        "method": "GET",
        "path": "/path?query=value",
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes": 1234,
        "duration": 0.012346,
        "upstream": "https://backend.example.com",
        "upstream_time": 0.01,
        "tls": "TLSv1.3",
        "user_agent": "Mozilla/5.0",
        "referer": "https://example.com/",
        "forwarded_for": "10.0.0.1",
        "forwarded": "",
        "app": "site",
        "reason": "ok",
    }


@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize("client", [Unix(b""), Unix(b"\0a b"), Unix(b'/run/"\n\xff'), inet("2001:db8::1", 9)])
def test_every_client_has_a_name_without_spaces_or_quotes(style, client):
    line = written(changed(client=Client(client)), style=style)
    plain = written(REQUEST, style=style)
    assert line.count("\n") == 1
    assert style == "json" or line.count(" ") == plain.count(" ")
    assert style != "json" or jsonlib.loads(line)["client"] == str(client)
    assert line.isascii()


@pytest.mark.parametrize(
    ("address", "host", "name", "text"),
    [
        (inet("192.0.2.7", 1234), "192.0.2.7", "192.0.2.7:1234", "192.0.2.7:1234"),
        (inet("::ffff:192.0.2.7", 0), "192.0.2.7", "192.0.2.7:0", "192.0.2.7:0"),
        (inet("2001:db8::1", 9), "2001:db8::1", "[2001:db8::1]:9", "[2001:db8::1]:9"),
        (inet("fe80::1%eth0", 9), "fe80::1%eth0", "[fe80::1%eth0]:9", "[fe80::1%eth0]:9"),
        (Unix(b"/run/a b"), "unix:/run/a\\x20b", "unix:/run/a\\x20b", "unix:/run/a b"),
        (Unix(b"\0a"), "unix:\\x00a", "unix:\\x00a", "unix:@a"),
        (Unix(b""), "unix:", "unix:", "unix:"),
    ],
)
def test_a_client_is_written_as_its_address_is(address, host, name, text):
    client = Client(address)
    assert (client.host, client.name, client.text) == (host, name, text)
    assert client.text == str(address)


@pytest.mark.parametrize("subject", ["CN=bob@admin", 'CN=a\\"b\\\\c\\,d', ""])
def test_json_names_the_subject_of_a_client_certificate_where_there_is_one(subject):
    assert jsonlib.loads(written(changed(subject=subject), style="json"))["client_subject"] == subject
    assert "client_subject" not in written(changed(subject=None), style="json")
    for style in ("rpxy", "common", "combined"):
        assert written(changed(subject=subject), style=style) == written(REQUEST, style=style)


def test_a_name_of_an_app_with_quotes_is_still_json():
    app = 'my "site" é'
    assert jsonlib.loads(written(changed(app=app, upstream=app), style="json"))["app"] == app


@pytest.mark.parametrize("style", FORMATS)
def test_the_time_of_each_line_is_its_own(style):
    clock, lines = Clock(), []
    clock.advance(WHEN)
    log = RequestLog(LineBatch(clock, lines.append, "the log", None), style)
    for _ in range(3):
        log.served(REQUEST, clock.seconds())
        clock.advance(0.875)
    log.flush()
    times = re.findall(r"22:13:(\d\d)(?:\.\d+)?", b"".join(lines).decode())
    assert times == ["20", "21", "22"]


NASTY = bytes(range(256)) + b'\r\nGET /\x1b[31m "\\ %n {0} \xc3\xa9 \xe2\x80\xa8'
FROM_WIRE = ["host", "scheme", "method", "path", "user_agent", "referer", "forwarded_for", "forwarded"]


def fields(line, style):
    """A line taken apart as a program that reads it would."""
    if style == "json":
        return jsonlib.loads(line)
    patterns = {
        "common": r'\S+ - - \[[^\]]+\] "[^" ]+ [^" ]+ HTTP/1\.1" \d+ \d+\n',
        "combined": r'\S+ - - \[[^\]]+\] "[^" ]+ [^" ]+ HTTP/1\.1" \d+ \d+ "[^"]*" "[^"]*"\n',
        "rpxy": r'\S+ \S+ <- \S+ -- \S+ \S+ HTTP/1\.1 -- 200 OK -- \S+ "[^"]*", "[^"]*"( "[^"]*")? "[^"]*"\n',
    }
    return re.fullmatch(patterns[style], line)


@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize("name", [*FROM_WIRE, "upstream_path"])
def test_whatever_a_field_holds_the_line_keeps_its_form(style, name):
    for value in [*(b"a%cb" % byte for byte in range(256)), NASTY]:
        line = written(changed(**{name: value}), style=style)
        assert line[:-1].isprintable()
        assert line.isascii()
        assert line.endswith("\n")
        assert fields(line, style)


@given(
    style=st.sampled_from(sorted(FORMATS)),
    values=st.lists(st.binary(min_size=1, max_size=40), min_size=9, max_size=9),
)
def test_all_fields_at_once_with_any_bytes(style, values):
    line = written(changed(**dict(zip([*FROM_WIRE, "upstream_path"], values, strict=True))), style=style)
    assert line[:-1].isprintable()
    assert fields(line, style)


@given(st.binary())
def test_json_says_every_byte(value):
    found = jsonlib.loads(json(changed(user_agent=value), "", 0.0))
    assert found["user_agent"].encode("latin-1") == value


def test_escapes():
    line = combined(changed(user_agent=b'a"b\\c\xe9\x1b \x7f'), "", 0.0)
    assert line.endswith(r'"a\x22b\x5cc\xe9\x1b \x7f"' + "\n")
    assert '"GET /a\\x20b HTTP/1.1"' in common(changed(path=b"/a b"), "", 0.0)


@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize("byte", [b"a", b"\xff"])
def test_long_fields_are_cut(style, byte):
    cut = written(changed(path=byte * (MOST_SHOWN + 1), user_agent=byte * 65536), style=style)
    assert len(cut) < 20 * MOST_SHOWN
    assert "..." in cut
    whole = written(changed(path=byte * MOST_SHOWN), style=style)
    assert "..." not in whole


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        (b"/reset?token=abc&email=a@b", b"/reset?token=<redacted>&email=<redacted>"),
        (b"/?a=", b"/?a=<redacted>"),
        (b"/?flag", b"/?<redacted>"),
        (b"/?", b"/?"),
        (b"/path", b"/path"),
        (b"", b""),
        (b"/?a=b=c", b"/?a=<redacted>"),
        (b"/?a=1&&b=2&", b"/?a=<redacted>&&b=<redacted>&"),
        (b"/?a=1?b=2", b"/?a=<redacted>"),
        (b"/?=secret", b"/?=<redacted>"),
        (b"https://a/?q=1#x=2", b"https://a/?q=<redacted>"),
    ],
)
def test_redaction(target, shown):
    """R-LOG-4."""
    assert redacted(target) == shown


@pytest.mark.parametrize("style", FORMATS)
def test_a_log_that_redacts_shows_no_value_anywhere(style):
    secrets = {
        "path": b"/p?k=SECRET",
        "upstream_path": b"/up?k=SECRET&SECRET",
        "referer": b"https://a/?k=SECRET",
    }
    line = written(changed(**secrets), style=style, redact=True)
    assert "SECRET" not in line
    assert "/p?k=<redacted>" in line
    assert "SECRET" in written(changed(**secrets), style=style)
    assert written(changed(path=b"/", upstream_path=b"/"), style=style, redact=True)


def test_formats_are_those_that_a_file_may_name():
    assert get_args(LogFormat) == tuple(FORMATS)
    assert [line for line, _ in FORMATS.values()] == [rpxy, common, combined, json]


def test_logs_that_share_a_file_are_written_in_order():
    clock, lines = Clock(), []
    batch = LineBatch(clock, lines.append, "the log", None)
    first, second = RequestLog(batch), RequestLog(batch)
    for status, log in enumerate([first, second, first], 200):
        log.served(changed(status=status), clock.seconds())
    first.flush()
    assert re.findall(r"-- (\d+) ", b"".join(lines).decode()) == ["200", "201", "202"]


@pytest.mark.parametrize(("field", "cache"), [("user_agent", "_kept_text"), ("host", "_kept_word")])
def test_texts_longer_than_what_clients_repeat_are_not_kept(field, cache):
    """Or a stranger could fill the memory with heads."""
    longest, kept = requestlog.LONGEST_REPEATED, getattr(requestlog, cache)
    kept.cache_clear()
    written(REQUEST)
    before = kept.cache_info().misses
    for size, misses in [(longest + 1, 0), (65536, 0), (longest, 1)]:
        value = b"k" * size
        assert value[:MOST_SHOWN].decode() in written(changed(**{field: value}))
        assert kept.cache_info().misses == before + misses
