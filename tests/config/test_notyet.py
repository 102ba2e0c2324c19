"""What is not built is refused by name, and every row names a key that exists."""

import pytest

from rproxy.config.load import parse
from rproxy.config.mistakes import _tables
from rproxy.config.notyet import NOT_YET, Row, pending
from rproxy.config.schema import Configuration
from rproxy.errors import ConfigError


@pytest.mark.parametrize(
    ("table", "paths"),
    [
        ({"experimental": {"cache": {}}, "listen_port": 80}, [("experimental", "cache")]),
        ({"apps": {"a": {"tls": {"acme": True}, "allow_connect": True}}, "acme": {}}, []),
        ({"apps": {"a": {"tls": {"client_ca_cert_path": "ca"}}}}, []),
        ({"apps": {"a": {"reverse_proxy": {"upstream_options": "force_http2_upstream"}}}}, []),
        ({"workers": 2}, [("workers",)]),
        ({"workers": 1, "experimental": {"connection_handling_timeout": 0}}, []),
        ({"workers": True}, [("workers",)]),
        ({"experimental": {"tcp_recv_proxy_protocol": {}, "h3": {}}}, [("experimental", "h3")]),
        ({"apps": 5, "experimental": [], "listen_port_tls": 443, "hosts": {}}, []),
    ],
)
def test_the_places_that_ask_for_what_is_not_built(table, paths):
    assert [mistake.path for mistake in pending(table)] == paths


@pytest.mark.parametrize(("value", "refused"), [("new", True), (["old", "new"], True), (["old"], False)])
def test_a_row_may_be_about_some_values_only(value, refused):
    table = {"apps": {"a": {"x": value}}}
    found = [mistake.path for mistake in pending(table, [Row("apps.*.x", "", only=("new",))])]
    assert found == ([("apps", "a", "x")] if refused else [])


def test_rows_reach_into_lists():
    table = {"apps": {"a": {"entries": [{}, {"x": 1}]}}}
    assert [mistake.path for mistake in pending(table, [Row("apps.*.entries.x", "")])] == [
        ("apps", "a", "entries", 1, "x")
    ]


@pytest.mark.parametrize("row", NOT_YET, ids=lambda row: row.key)
def test_every_row_names_a_key_of_the_schema(row):
    homes = dict(_tables(Configuration, ""))
    table, _, key = row.key.replace("*", "<name>").rpartition(".")
    assert key in next(
        keys for place, keys in homes.items() if (f"[{table}]" in place if table else "top" in place)
    )


def test_a_value_that_is_wrong_too_is_only_told_that_it_is_not_supported():
    with pytest.raises(ConfigError) as caught:
        parse("workers = 'x'\nlisten_port_tls = 1\nhosts.directory = 'h'", "x.toml")
    assert [problem.message for problem in caught.value.problems] == [
        "not supported yet (more than one process)"
    ]
