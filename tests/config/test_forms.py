"""Paths of the models in a file that is shorter, and locations that are one group."""

import time

import pytest

from rproxy.config.apps import Upstream
from rproxy.config.forms import PEER_KEYS, Forms, arranged
from rproxy.config.load import parse
from rproxy.errors import ConfigError

A, B, OTHER = {"location": "a"}, {"location": "b", "weight": 2}, {"location": "c", "path": "/c"}
GROUP = {"upstream": [{"location": "a"}]}


def test_the_keys_of_a_peer_are_those_of_the_model():
    assert frozenset(Upstream.model_fields) == PEER_KEYS


@pytest.mark.parametrize(
    ("written", "places"),
    [
        (A, [(0,)]),
        ([A], [(0,)]),
        ([A, B], [(0, 1)]),
        ([OTHER, A, GROUP, B], [(0,), (1, 3), (2,)]),
        ([A, OTHER, B], [(0, 2), (1,)]),
        ([GROUP, GROUP, OTHER], [(0,), (1,), (2,)]),
        ([{}, {"tls": True}, 5, "location"], [(0,), (1,), (2,), (3,)]),
    ],
)
def test_locations_without_more_are_one_group(written, places):
    assert arranged(written) == places
    assert arranged(tuple(written) if isinstance(written, list) else written) == places


def in_file(entries, *path):
    return Forms({"apps": {"a": {"reverse_proxy": entries}}}).path(("apps", "a", "reverse_proxy", *path))[3:]


@pytest.mark.parametrize(
    ("entries", "path", "found"),
    [
        ([OTHER, A, GROUP, B], (1, "upstream", 1, "weight"), (3, "weight")),
        ([OTHER, A, GROUP, B], (1, "upstream", 0, "tls"), (1, "tls")),
        ([OTHER, A, GROUP, B], (1, "upstream", 1), (3,)),
        ([OTHER, A, GROUP, B], (1, "path"), (1, "path")),
        ([OTHER, A, GROUP, B], (0, "upstream", 0, "location"), (0, "location")),
        ([OTHER, A, GROUP, B], (2, "upstream", 0, "location"), (2, "upstream", 0, "location")),
        ([A, B, GROUP], (1, "upstream", 0, "location"), (2, "upstream", 0, "location")),
        (A, (0, "upstream", 0, "location"), ("location",)),
        (A, (0, "load_balance"), ("load_balance",)),
        (GROUP, (0, "upstream", 0, "tls"), ("upstream", 0, "tls")),
        ({**A, "health_check": True}, (0, "health_check", "timeout"), ("health_check", "timeout")),
    ],
)
def test_a_peer_of_a_group_is_where_it_is_written(entries, path, found):
    assert in_file(entries, *path) == found


@pytest.mark.parametrize(
    ("table", "path", "found"),
    [
        ({"listen": "fd:0"}, ("listen", 0), ("listen",)),
        ({"listen": ["fd:0"]}, ("listen", 0), ("listen", 0)),
        ({}, ("listen", 0), ("listen", 0)),
        ({"apps": {"reverse_proxy": {"tls": {}}}}, ("apps", "reverse_proxy", "tls", "acme"),
         ("apps", "reverse_proxy", "tls", "acme")),
        ({}, (), ()),
    ],
)  # fmt: skip
def test_a_value_alone_stands_for_a_list_and_what_is_missing_keeps_its_path(table, path, found):
    assert Forms(table).path(path) == found


HEAD = "listen_port = 80\n[apps.site]\nserver_name = 'a.example'\nreverse_proxy = "


def problems(entries):
    with pytest.raises(ConfigError) as told:
        parse(HEAD + entries, "x.toml", rows=())
    return told.value.problems


@pytest.mark.parametrize(
    ("rest", "key", "message"),
    [
        ("{ upstream = [{ location = 'c' }] }", "[3]", 'the path "/" has an entry already, line 5'),
        ("{ location = 'c', load_balance = 'none' }", "[3]", 'the path "/" has an entry already, line 5'),
        ("{ location = 'A:80' }", "[3].location", '"A:80" is in this group already, line 5'),
        ("{ location = 'c', tls_insecure = true }", "[3].tls_insecure",
         "tls_insecure is given, but this upstream is spoken to in clear text"),
        ("{ location = 'c', tls = true, tls_client_cert_path = 'c' }", "[3]",
         "tls_client_cert_path and tls_client_key_path only work together"),
        ("{ path = '/y', location = 'c', sticky_cookie = {} }", "[3].sticky_cookie",
         "sticky_cookie is given, but load_balance is not sticky"),
        ("{ path = '/x/', upstream = [{ location = 'c' }] }", "[3].path",
         'the path "/x" has an entry already, line 6'),
        ("{ path = '/y', upstream = [{ location = 'c' }, { location = 'C' }] }", "[3].upstream[1].location",
         '"C" is in this group already, line 8'),
    ],
)  # fmt: skip
def test_what_is_wrong_around_a_group_of_locations_is_told_where_it_stands(rest, key, message):
    """Locations in the array are one entry of the models, with an entry of another path between them."""
    lines = ["{ location = 'a' },", "{ path = '/x', location = 'x' },", "{ location = 'b' },", rest]
    [problem] = problems("\n".join(["[", *lines, "]"]))
    assert (problem.line, problem.key, problem.message) == (8, f"apps.site.reverse_proxy{key}", message)


@pytest.mark.parametrize(
    ("key", "column"), [("weight = 0", 28), ("wieght = 1", 19), ("tls = 1", 25), ("tls_insecure = 1", 34)]
)
def test_a_mistake_in_one_of_several_locations_has_its_place(key, column):
    [problem] = problems(f"[\n{{ location = 'a' }},\n{{ location = 'b', {key} }}]")
    assert (problem.line, problem.column) == (6, column)
    assert problem.key == f"apps.site.reverse_proxy[1].{key.split()[0]}"


@pytest.mark.parametrize(
    "entry",
    [
        "{ location = 'a', health_check = { interval = 'x', timeout = 20 } }",
        "{ location = 'a', health_check = { intrval = '1m', timeout = 20 } }",
        "{ location = 'a', health_check = { typ = 'http', path = '/x' } }",
        "{ location = 'a', sticky_cookie = {}, load_balanc = 'sticky' }",
        "[{ location = 'a' }, { location = 'A', weight = 0 }]",
    ],
)
def test_a_consequence_of_a_mistake_in_a_short_form_is_no_second_problem(entry):
    [problem] = problems(entry)
    assert problem.message.startswith(("expected", "unknown key"))


def test_a_long_list_of_locations_costs_no_more_for_each_thing_wrong_with_it():
    before = time.process_time()
    assert len(problems("[" + "{ location = 'a' },\n" * 5000 + "]")) == 4999
    assert time.process_time() - before < 5.0
