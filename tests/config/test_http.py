"""Keys that only HTTP has: what they mean at each level, and the sentence for each mistake."""

import pytest
from pydantic import ValidationError

from rproxy.config.apps import App, ReverseProxy
from rproxy.config.http import (
    MAX_HEADER_VALUE,
    NOT_FOR_RULES,
    AccessLog,
    HeaderRules,
    StickyCookie,
    Tuned,
    Tuning,
)
from rproxy.config.schema import Configuration


def app(**table):
    return App.model_validate({"server_name": "a.example", **table})


def messages(model, table):
    with pytest.raises(ValidationError) as caught:
        model.model_validate(table)
    return [
        str(error["ctx"]["error"]) if "ctx" in error else error["type"] for error in caught.value.errors()
    ]


def tuned(entry=None, of_app=None, **whole):
    apps = {"a": {"server_name": "a", "reverse_proxy": {"location": "x", **(entry or {})}, **(of_app or {})}}
    config = Configuration.model_validate({"apps": apps, **whole}).settled()
    return config.tuned(config.apps["a"].reverse_proxy[0])


def test_defaults():
    assert tuned() == Tuned(5.0, 60.0, 60.0, 3600.0, 2, 256, 20.0)
    config = Configuration()
    assert (config.header_timeout, config.keepalive_timeout, config.min_body_rate) == (20.0, 75.0, 100)
    assert config.ignore_sni_consistency is False
    entry = ReverseProxy.model_validate({"location": "a"})
    assert (entry.max_fails, entry.fail_timeout) == (1, 10.0)
    assert app().allow_connect is False


def test_each_level_goes_before_the_one_around_it():
    assert tuned(retries=1).retries == 1
    assert tuned(retries=1, of_app={"retries": 3}).retries == 3
    assert tuned({"retries": 0}, retries=1, of_app={"retries": 3}).retries == 0


@pytest.mark.parametrize("key", Tuned._fields)
def test_every_one_of_them_can_stand_at_every_level(key):
    values = [
        getattr(tuned({key: 3}), key),
        getattr(tuned(of_app={key: 3}), key),
        getattr(tuned(**{key: 3}), key),
    ]
    assert values == [3, 3, 3]
    assert key in Tuning.model_fields


def test_connect_timeout_of_an_app_counts_for_its_passthrough_too():
    stream = {"upstream": [{"location": "a"}]}
    assert app(connect_timeout=2, passthrough=stream).passthrough.connect_timeout == 2.0
    assert (
        app(connect_timeout=2, passthrough={**stream, "connect_timeout": 3}).passthrough.connect_timeout
        == 3.0
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("header_timeout", 0), ("keepalive_timeout", 0), ("response_timeout", 0), ("body_timeout", "0"),
        ("upstream_keepalive_timeout", 0), ("retries", 17), ("retries", -1), ("keepalive", -1),
        ("min_body_rate", "unlimited"), ("min_body_rate", -1), ("min_body_rate", "4g"),
    ],
)  # fmt: skip
def test_values_outside_their_range_are_refused(key, value):
    assert messages(Configuration, {key: value})[0].startswith("expected ")


@pytest.mark.parametrize(("written", "rate"), [(0, 0), (250, 250), ("1k", 1024)])
def test_rates(written, rate):
    assert Configuration.model_validate({"min_body_rate": written}).min_body_rate == rate


def test_the_largest_body_of_an_app():
    assert app(request_max_body_size="1g").request_max_body_size == 1 << 30
    assert app(request_max_body_size="unlimited").request_max_body_size == 0
    assert app().request_max_body_size is None


def test_an_upgraded_connection_may_idle_for_ever():
    assert tuned(upgrade_idle_timeout="0").upgrade_idle_timeout == 0.0


def test_header_rules():
    rules = HeaderRules.model_validate(
        {"set": {"X-A": "1"}, "add": {"Link": ["a", "b"], "Vary": "Origin"}, "remove": "Server"}
    )
    assert (rules.set, rules.add, rules.remove) == (
        {"X-A": "1"},
        {"Link": ("a", "b"), "Vary": ("Origin",)},
        ("Server",),
    )
    assert HeaderRules() == HeaderRules.model_validate({})


@pytest.mark.parametrize("name", ["", "X A", "X:", "X\r\nY", "Ä", "a" * 257, '"', "X\0"])
def test_what_is_no_header_name_is_refused(name):
    for table in ({"set": {name: "x"}}, {"add": {name: "x"}}, {"remove": [name]}):
        assert "header name" in messages(HeaderRules, table)[0]


@pytest.mark.parametrize("name", NOT_FOR_RULES)
def test_no_rule_may_touch_what_frames_and_routes_messages(name):
    for table in ({"set": {name.title(): "x"}}, {"add": {name: "x"}}, {"remove": [name.upper()]}):
        assert messages(HeaderRules, table)[0].endswith(
            "is written by the proxy itself, no rule may change it"
        )


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "\x00", "\x1b[31m", "\x7f"])
def test_a_value_cannot_smuggle_another_line(value):
    assert messages(HeaderRules, {"set": {"X": value}})[0].startswith(
        "expected a header value, got control characters"
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "expected a header value, got an empty text"), (5, "expected a header value, got the number 5"),
        ("é", '"é" has characters that are not ASCII'), (" a", '" a" begins or ends with a space'),
        ("a" * (MAX_HEADER_VALUE + 1), "a header value has at most 8192 characters, not 8193"),
    ],
)  # fmt: skip
def test_other_values_that_would_not_arrive_as_written(value, message):
    assert messages(HeaderRules, {"set": {"X": value}}) == [message]


def test_the_longest_value():
    assert HeaderRules.model_validate({"set": {"X": "a" * MAX_HEADER_VALUE}}).set["X"]


@pytest.mark.parametrize(
    "table",
    [
        {"set": {"X-A": "1", "x-a": "2"}}, {"set": {"X-A": "1"}, "add": {"x-a": "2"}},
        {"set": {"X-A": "1"}, "remove": ["X-A"]}, {"remove": ["X-A", "x-a"]},
    ],
)  # fmt: skip
def test_a_name_has_one_rule(table):
    assert messages(HeaderRules, table) == ['"X-A" has more than one rule']


def test_the_cookie_of_an_app_is_that_of_its_sticky_entries_unless_they_have_one():
    sticky = {"location": "a", "load_balance": "sticky"}
    own = {**sticky, "path": "/own", "sticky_cookie": {"name": "own"}}
    other = {"location": "c", "path": "/other"}
    entries = app(sticky_cookie={"name": "apps"}, reverse_proxy=[sticky, own, other]).reverse_proxy
    assert [entry.sticky_cookie.name for entry in entries] == ["apps", "own", "rproxy_sticky"]


def test_the_cookie_reaches_entries_that_are_sticky_through_their_app():
    found = app(load_balance="sticky", sticky_cookie={"max_age": "1h"}, reverse_proxy={"location": "a"})
    assert found.reverse_proxy[0].sticky_cookie == StickyCookie(max_age=3600)


@pytest.mark.parametrize(
    "table",
    [
        {"name": ""}, {"name": "a b"}, {"name": "a=b"}, {"name": "a;b"}, {"name": "x" * 65}, {"max_age": 0},
        {"max_age": "1500ms"}, {"max_age": 0.5}, {"max_age": "366h0m"},
    ],
)  # fmt: skip
def test_cookies_that_no_browser_would_keep_are_refused(table):
    assert len(messages(StickyCookie, table)) == 1


def test_error_pages(tmp_path):
    pages = {"404": "a.html", "5xx": str(tmp_path / "b.htm")}
    found = App.model_validate({"server_name": "a", "error_pages": pages}, context={"base": tmp_path})
    assert found.error_pages == {"404": tmp_path / "a.html", "5xx": tmp_path / "b.htm"}


@pytest.mark.parametrize("key", ["200", "3xx", "600", "40", "4040", "xx4", "default", "٤04", "404\n"])
def test_pages_for_what_is_no_error_are_refused(key):
    [message] = messages(App, {"server_name": "a", "error_pages": {key: "a.html"}})
    assert message.startswith("expected a status from 400 to 599, 4xx or 5xx, got the text ")


@pytest.mark.parametrize("file", ["a.json", "a", "", 5])
def test_a_page_is_an_html_file(file):
    [message] = messages(App, {"server_name": "a", "error_pages": {"404": file}})
    assert ".html file" in message


def test_the_log_of_an_app_has_what_the_file_says_where_it_says_nothing(tmp_path):
    config = Configuration.model_validate(
        {
            "access_log": {"path": "/all.log", "format": "json"},
            "apps": {
                "a": {"server_name": "a"},
                "b": {"server_name": "b", "access_log": {"path": "/b.log"}},
                "c": {"server_name": "c", "access_log": {"format": "common"}},
            },
        }
    ).settled()
    logs = [(str(app.access_log.path), app.access_log.format) for app in config.apps.values()]
    assert logs == [("/all.log", "json"), ("/b.log", "json"), ("/all.log", "common")]
    assert config.settled() == config


def test_logs_are_rpxys_unless_said_otherwise():
    assert (Configuration().access_log, AccessLog().format) == (AccessLog(), "rpxy")
    [message] = messages(AccessLog, {"format": "combinde"})
    assert message.startswith('expected one of "rpxy", "common", "combined", "json", got ')


STREAM = {"upstream": [{"location": "a"}]}
PROXY = {"location": "a"}


@pytest.mark.parametrize(
    ("table", "redirects"),
    [
        ({"reverse_proxy": PROXY}, False),
        ({"reverse_proxy": PROXY, "tls": {"acme": True}}, True),
        ({"reverse_proxy": PROXY, "tls": {"acme": True, "https_redirection": False}}, False),
        ({"reverse_proxy": PROXY, "tls": {"acme": True}, "https_redirection": False}, False),
        ({"passthrough": STREAM}, True),
        ({"passthrough": STREAM, "https_redirection": False}, False),
        ({"passthrough": STREAM, "reverse_proxy": PROXY}, False),
    ],
)
def test_who_is_redirected_to_https(table, redirects):
    """R-A-10, N-15, N-16."""
    found = app(**table).settled(AccessLog())
    assert found.redirects is redirects
    assert found.tls is None or found.tls.https_redirection is None


def test_ignoring_sni_at_the_top_is_what_rpxy_calls_experimental():
    """R-E-1."""
    old = Configuration.model_validate({"experimental": {"ignore_sni_consistency": True}}).settled()
    assert (old.ignore_sni_consistency, old.experimental.ignore_sni_consistency) == (True, False)
    assert Configuration(ignore_sni_consistency=True).settled().ignore_sni_consistency


def test_state_is_kept_beside_the_file(tmp_path):
    assert (
        Configuration.model_validate({}, context={"base": tmp_path}).state_directory
        == tmp_path / "rproxy-state"
    )
