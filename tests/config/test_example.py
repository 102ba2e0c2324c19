"""config-example.toml runs as it is, mentions every key, and what it shows in comments is true."""

import re
import tomllib
from itertools import groupby
from pathlib import Path

import pytest

from rproxy.config.load import load, parse
from rproxy.config.mistakes import _fields, _is_mapping, _model_in
from rproxy.config.schema import Configuration
from rproxy.config.table import Table
from rproxy.errors import ConfigError

FILE = Path(__file__).parents[2] / "config-example.toml"
LINES = FILE.read_text().split("\n")
MARK = "# not supported yet"

ELSEWHERE = {
    ("default_application",),
    ("experimental", "acme"),
    ("experimental", "ignore_sni_consistency"),
    ("experimental", "tcp_recv_proxy_protocol"),
}
"""Second names of what stands there under its first; the comments mention them."""


def is_switched_off(line):
    """Whether a line is a setting behind a "#", and not a comment in words."""
    return line.startswith("#") and not re.match(r"#(?: (?!   )|$)", line)


def blocks():
    """The line numbers of each run of settings that are switched off."""
    runs = groupby(range(len(LINES)), key=lambda number: is_switched_off(LINES[number]))
    return [list(run) for off, run in runs if off]


def with_switched_on(numbers):
    return "\n".join(line[1:] if number in numbers else line for number, line in enumerate(LINES))


EVERYTHING = with_switched_on({number for block in blocks() for number in block})


def test_it_runs_as_it_is_on_loopback_and_unprivileged_ports():
    config = load(FILE)
    assert config.listen_addresses == ("127.0.0.1",)
    assert (config.listen_port, config.listen_port_tls) == (8080, 8443)
    local = config.apps["local"]
    assert local.server_name == ("localhost",)
    assert local.tls.self_signed
    assert not local.redirects
    assert [str(upstream.location) for upstream in local.reverse_proxy[0].upstream] == ["demo:"]
    demo = config.apps["demo"]
    assert demo.server_name == ("demo.localhost", "*.demo.localhost")
    assert [str(upstream.location) for upstream in demo.passthrough.upstream] == ["demo:"]
    assert demo.passthrough.proxy_protocol == "v2"


@pytest.mark.parametrize("block", blocks(), ids=lambda block: LINES[block[0]][1:30])
def test_each_example_works_or_is_marked_as_not_supported_yet(block):
    """A mark at the first line is for the whole block, one further down for its line."""
    marked = [number for number in block if MARK in LINES[number]]
    working = [] if block[0] in marked else [number for number in block if number not in marked]
    parse(with_switched_on(working), str(FILE))
    if marked:
        with pytest.raises(ConfigError) as caught:
            parse(with_switched_on(block), str(FILE))
        found = caught.value.problems
        assert {problem.message.partition(" (")[0] for problem in found} == {"not supported yet"}
        assert {problem.line - 1 for problem in found} <= set(block)
        if working:
            assert sorted(problem.line - 1 for problem in found) == marked


def test_all_examples_work_together_once_everything_is_built():
    parse(EVERYTHING, str(FILE), rows=())


def keys_of(model: type[Table], path=()):
    """The path of every key there is, `*` for chosen names."""
    for key, annotation in _fields(model).items():
        here = (*path, key)
        yield here
        inner = _model_in(annotation)
        if inner is not None and here not in ELSEWHERE:
            yield from keys_of(inner, (*here, "*") if _is_mapping(annotation) else here)


def keys_in(node, path=()):
    if isinstance(node, list):
        for item in node:
            yield from keys_in(item, path)
    elif isinstance(node, dict):
        for key, value in node.items():
            here = (*path, "*" if path in [("apps",), ("l4",)] else key)
            yield here
            yield from keys_in(value, here)


SAME_AS_IN_APPS = {("l4", "*", "tls"), ("l4", "*", "upstream")}
"""Tables whose keys are explained once, at the apps."""


def test_every_key_is_shown():
    shown = set(keys_in(tomllib.loads(EVERYTHING)))
    missing = [key for key in keys_of(Configuration) if key not in shown and key[:3] not in SAME_AS_IN_APPS]
    assert set(missing) == ELSEWHERE
    words = FILE.read_text()
    assert all(".".join(key) in words for key in ELSEWHERE)


@pytest.mark.parametrize("key", [key for key, field in Configuration.model_fields.items() if field.default])
def test_the_value_shown_is_the_default(key):
    default = Configuration.model_fields[key].default
    if isinstance(default, int | float) and key in tomllib.loads(EVERYTHING):
        assert getattr(parse(EVERYTHING, str(FILE), rows=()), key) == default


def test_the_file_is_comfortable_to_read():
    assert [line for line in LINES if len(line) > 110] == []
