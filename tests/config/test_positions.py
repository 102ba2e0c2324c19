"""Where keys and values stand in a TOML text."""

import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.config.positions import Spot, scan

TEXT = '''\
# first
listen_port_tls = 8443   # a comment
names = ["a", 'b', # inside
  """c
  d""",
]

[apps."my site".tls]
cert.path = "x"
point = { x = 1, y = { z = [2, 3] } }

[[apps.site.reverse_proxy]]
path = "/" # why
[[apps.site.reverse_proxy.upstream]]
location = "a]}#"
[[ apps . site . reverse_proxy ]]
  path = 1979-05-27 07:32:00
[[apps.site.reverse_proxy.upstream]]
[[apps.site.reverse_proxy.upstream]]
weight = 1'''


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("listen_port_tls",), (2, 1), (2, 19)),
        (("names",), (3, 1), (3, 9)),
        (("names", 0), (3, 10), (3, 10)),
        (("names", 1), (3, 15), (3, 15)),
        (("names", 2), (4, 3), (4, 3)),
        (("apps",), (8, 2), (8, 2)),
        (("apps", "my site"), (8, 7), (8, 7)),
        (("apps", "my site", "tls"), (8, 17), (8, 17)),
        (("apps", "my site", "tls", "cert"), (9, 1), (9, 1)),
        (("apps", "my site", "tls", "cert", "path"), (9, 6), (9, 13)),
        (("apps", "my site", "tls", "point", "y", "z", 1), (10, 32), (10, 32)),
        (("apps", "my site", "tls", "point", "y"), (10, 18), (10, 22)),
        (("apps", "site", "reverse_proxy"), (12, 13), (12, 13)),
        (("apps", "site", "reverse_proxy", 0), (12, 13), (12, 13)),
        (("apps", "site", "reverse_proxy", 0, "path"), (13, 1), (13, 8)),
        (("apps", "site", "reverse_proxy", 0, "upstream", 0, "location"), (15, 1), (15, 12)),
        (("apps", "site", "reverse_proxy", 1), (16, 18), (16, 18)),
        (("apps", "site", "reverse_proxy", 1, "path"), (17, 3), (17, 10)),
        (("apps", "site", "reverse_proxy", 1, "upstream", 0), (18, 27), (18, 27)),
        (("apps", "site", "reverse_proxy", 1, "upstream", 1, "weight"), (20, 1), (20, 10)),
    ],
)
def test_keys_and_values_have_their_place(path, key, value):
    places = scan(TEXT)
    assert places.key(path) == Spot(*key)
    assert places.value(path) == Spot(*value)


def test_what_is_not_in_the_text_has_no_place():
    assert scan(TEXT).key(("nothing",)) is None
    assert scan("").paths() == set()


def test_windows_line_ends_change_no_place():
    assert every_place(TEXT.replace("\n", "\r\n")) == every_place(TEXT)


def test_columns_count_characters():
    assert scan('"ä" = { "€" = 1 }').key(("ä", "€")) == Spot(1, 9)


@pytest.mark.parametrize(
    "quoted", ['"""a""""', '"""a"""""', "'''a''''", '""""""', '""', "''", r'"\\"', r'"\""', r'"""\""""']
)
def test_strings_end_where_they_end(quoted):
    text = f"a = [{quoted}, 2]\nb = 3"
    assert scan(text).key(("b",)) == Spot(2, 1)
    assert scan(text).paths() == paths_of(tomllib.loads(text))


def test_two_thousand_apps_and_many_headers_take_linear_time():
    entry = "[apps.a%d]\n[[apps.a%d.reverse_proxy]]\n[[apps.a%d.reverse_proxy.upstream]]\nlocation = 'x'\n"
    text = "".join(entry % (i, i, i) for i in range(20_000))
    assert scan(text).key(("apps", "a19999", "reverse_proxy", 0, "upstream", 0, "location")) == Spot(
        80_000, 1
    )


def every_place(text):
    places = scan(text)
    return {path: (places.key(path), places.value(path)) for path in places.paths()}


def paths_of(node, path=()):
    """Every path in what tomllib gave."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return {found for key, value in pairs for found in {(*path, key)} | paths_of(value, (*path, key))}


SCALARS = st.integers() | st.booleans() | st.text(st.characters(codec="utf-8"), max_size=6)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
KEYS = st.text(st.characters(codec="utf-8"), max_size=4)


def written(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(key)}={written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[ # list\n" + ",\n".join(map(written, value)) + "\n]"
    return quoted(value) if isinstance(value, str) else str(value).lower()


def quoted(text):
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


TABLES = st.dictionaries(KEYS, VALUES, max_size=3)


@given(
    TABLES,
    st.dictionaries(KEYS, st.lists(TABLES, min_size=1, max_size=3), max_size=3),
    st.sampled_from(["\n", "\r\n"]),
)
def test_every_path_of_a_document_has_a_place_and_the_value_stands_there(top, arrays, line_end):
    lines = [f"{quoted(key)} = {written(value)}" for key, value in top.items()]
    for key, tables in arrays.items():
        for table in tables:
            lines += [
                f"[[t.{quoted(key)}]] # {key!r}".encode("unicode_escape").decode()
                if key.isascii()
                else f"[[t.{quoted(key)}]]"
            ]
            lines += [f"\t{quoted(name)}={written(value)}" for name, value in table.items()]
    text = "\n".join(lines)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return  # a key of the top is called t, or the comment is none
    text = text.replace("\n", line_end)
    places = scan(text)
    assert places.paths() == paths_of(document)
    for path in places.paths():
        assert_value_stands(text, document, path, places.value(path))


def assert_value_stands(text, document, path, spot):
    value = document
    for part in path:
        value = value[part]
    if isinstance(value, str | bool | int):
        line = text.split("\n")[spot.line - 1]
        assert line[spot.column - 1 :].startswith(
            quoted(value) if isinstance(value, str) else str(value).lower()
        )
