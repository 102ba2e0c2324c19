"""`[apps.<name>]`: the short forms become the long one."""

import pytest
from pydantic import ValidationError

from rproxy.config.apps import App, Passthrough, ReverseProxy, Upstream
from rproxy.config.values import Balance


def app(**table):
    return App.model_validate({"server_name": "a.example", **table})


def messages(model, table):
    with pytest.raises(ValidationError) as caught:
        model.model_validate(table)
    return [
        str(error["ctx"]["error"]) if "ctx" in error else error["type"] for error in caught.value.errors()
    ]


def test_a_location_alone_is_a_group_of_one():
    """R-G-20: the form that rpxy's README shows."""
    short = app(reverse_proxy={"location": "a", "tls": True, "weight": 2, "path": "/x"})
    long = app(reverse_proxy=[{"upstream": [{"location": "a", "tls": True, "weight": 2}], "path": "/x"}])
    assert short == long
    assert short.reverse_proxy[0].upstream[0].location.port == 443


def test_locations_in_the_list_are_one_group_in_the_place_of_the_first():
    """R-G-20: the form that rpxy's introduction shows."""
    a, b, path = {"location": "a"}, {"location": "b", "tls": True}, {"location": "x", "path": "/x"}
    group = {"upstream": [a, b]}
    assert app(reverse_proxy=[a, b]) == app(reverse_proxy=[group])
    assert app(reverse_proxy=[a, path, b]) == app(reverse_proxy=[group, path])
    assert app(reverse_proxy=[path, a, b]) == app(reverse_proxy=[path, group])


@pytest.mark.parametrize(
    "second",
    [
        {"location": "b", "path": "/b"},
        {"location": "b", "load_balance": "random"},
        {"upstream": [{"location": "b"}]},
    ],
)
def test_a_location_with_more_than_a_peer_has_is_an_entry(second):
    assert len(app(reverse_proxy=[{"location": "a"}, second]).reverse_proxy) == 2


def test_a_group_of_locations_is_told_what_the_app_says():
    [entry] = app(
        reverse_proxy=[{"location": "a"}, {"location": "b"}],
        load_balance="sticky",
        sticky_cookie={"name": "x"},
        retries=0,
    ).reverse_proxy
    assert (entry.load_balance, entry.sticky_cookie.name, entry.retries) == ("sticky", "x", 0)


def test_location_beside_upstream_is_refused():
    table = {"location": "a", "upstream": [{"location": "b"}]}
    assert messages(ReverseProxy, table) == ['"location" and "upstream" are both given']


def test_load_balance_of_the_app_is_that_of_its_entries_unless_they_have_one():
    """R-G-20."""
    entries = [{"location": "a"}, {"location": "b", "path": "/b", "load_balance": "none"}]
    found = app(load_balance="random", reverse_proxy=entries, passthrough={"upstream": [{"location": "a"}]})
    assert [entry.load_balance for entry in found.reverse_proxy] == ["random", "none"]
    assert found.passthrough.load_balance == "random"


def test_default_ports():
    assert Upstream.model_validate({"location": "a"}).location.port == 80
    assert Upstream.model_validate({"location": "a", "tls": True}).location.port == 443
    assert Passthrough.model_validate({"upstream": [{"location": "a"}]}).upstream[0].location.port == 443


@pytest.mark.parametrize(("written", "path"), [("/foo/", "/foo"), ("/foo", "/foo"), ("/", "/"), ("//", "/")])
def test_a_prefix_has_no_trailing_slash(written, path):
    """R-RT-4."""
    assert ReverseProxy.model_validate({"location": "a", "path": written}).path == path


def test_two_http_versions_exclude_each_other():
    """R-A-15."""
    table = {"location": "a", "upstream_options": ["force_http11_upstream", "force_http2_upstream"]}
    assert messages(ReverseProxy, table) == [
        "force_http11_upstream and force_http2_upstream exclude each other"
    ]


def test_unknown_options_are_errors():
    [message] = messages(ReverseProxy, {"location": "a", "upstream_options": ["set_upstream_hots"]})
    assert message.startswith('expected one of "keep_original_host", "set_upstream_host", ')
    assert ReverseProxy.model_validate({"location": "a", "upstream_options": []}).upstream_options == ()


@pytest.mark.parametrize("balance", Balance.__args__)
def test_every_balance_but_sticky_works_for_a_stream(balance):
    table = {"upstream": [{"location": "a"}], "load_balance": balance}
    if balance == "sticky":
        assert messages(Passthrough, table) == [
            "sticky needs a cookie, and there is none in a stream that stays encrypted"
        ]
    else:
        assert Passthrough.model_validate(table).load_balance == balance


@pytest.mark.parametrize(("written", "interval"), [(True, 10.0), ({"interval": 3}, 3.0), ({}, 10.0)])
def test_health_check_is_a_switch_or_a_table(written, interval):
    """R-HC-1."""
    assert (
        ReverseProxy.model_validate({"location": "a", "health_check": written}).health_check.interval
        == interval
    )


def test_health_check_can_be_switched_off():
    assert ReverseProxy.model_validate({"location": "a", "health_check": False}).health_check is None


@pytest.mark.parametrize("weight", [1, 1000])
def test_weights(weight):
    assert Upstream.model_validate({"location": "a", "weight": weight}).weight == weight


@pytest.mark.parametrize("weight", [0, 1001, 1.5])
def test_other_weights_are_refused(weight):
    assert messages(Upstream, {"location": "a", "weight": weight})[0].startswith(
        "expected a whole number from 1 to 1000"
    )


def test_idle_timeout_zero_is_kept_and_none_is_inherited():
    assert (
        Passthrough.model_validate({"upstream": [{"location": "a"}], "idle_timeout": "0"}).idle_timeout == 0.0
    )
    assert Passthrough.model_validate({"upstream": [{"location": "a"}]}).idle_timeout is None


def test_a_passthrough_peer_cannot_be_spoken_to_in_tls():
    assert messages(Passthrough, {"upstream": [{"location": "a", "tls": True}]}) == ["extra_forbidden"]


@pytest.mark.parametrize("upstream", [[], {"location": "a"}, "a", None])
def test_a_group_is_a_list_with_something_in_it(upstream):
    assert messages(Passthrough, {"upstream": upstream})[0].startswith("expected a list")
