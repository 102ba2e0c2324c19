"""Files: read, refused as a whole, and all problems of one at once with their places."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.config.load import MAX_FILE, load, parse, shown
from rproxy.config.schema import Configuration
from rproxy.errors import ConfigError

GOOD = """\
listen_port_tls = 8443
[apps.site]
server_name = "example.org"
passthrough = { upstream = [{ location = "10.0.0.5" }] }
"""


def problems(text, **options):
    with pytest.raises(ConfigError) as caught:
        parse(text, "x.toml", **options)
    return caught.value.problems


def only_problem(call, *arguments):
    with pytest.raises(ConfigError) as caught:
        call(*arguments)
    [problem] = caught.value.problems
    return problem


def test_a_file_is_a_configuration(tmp_path):
    file = tmp_path / "x.toml"
    file.write_text(GOOD + '[hosts]\ndirectory = "hosts"\n')
    config = load(file)
    assert config.listen_port_tls == 8443
    assert config.hosts.directory == tmp_path / "hosts"
    assert config == load(str(file))


BAD = """\
# Twelve mistakes.
lisen_port = 8080
listen_port_tls = "abc"
max_clients = -5
drain_timeout = "10"
https_redirection_port = 443
accept_proxy_protocol = { from = ["10.0.0.1/8"], requird = true }
hosts = { hashed = false }

[apps.site]
server_name = "example.org"
max_clients_per_ip = 5
passthrough = { upstream = [{ location = "a:443" }, { location = "http://x:80", weight = 0 }] }

[apps."my site"]
server_name = "EXAMPLE.org"
\tpassthrough = { upstream = [{ location = "10.0.0.1:99999" }], load_balance = "sticky" }

[[apps."my site".reverse_proxy]]
[[apps."my site".reverse_proxy]]
upstream = [{ location = "::1", tls = 1 }]
load_balance = "roundrobin"
[apps.third]
server_name = "third.example"
"""


def test_all_problems_of_a_file_come_at_once_in_its_order():
    found = [(p.line, p.column, p.key, p.message) for p in problems(BAD)]
    assert found == [
        (2, 1, "lisen_port", 'unknown key "lisen_port"'),
        (3, 19, "listen_port_tls", 'expected a whole number from 1 to 65535, got the text "abc"'),
        (4, 15, "max_clients", "expected a whole number, 1 or more, got -5"),
        (5, 17, "drain_timeout",
         'expected a duration such as "500ms", "10s", "5m", "1h" or a number of seconds, got the text "10"'),
        (6, 1, "https_redirection_port", 'unknown key "https_redirection_port"'),
        (7, 35, "accept_proxy_protocol.from[0]",
         "'10.0.0.1/8' has bits set behind its prefix: write 10.0.0.0/8."),
        (7, 50, "accept_proxy_protocol.requird", 'unknown key "requird"'),
        (8, 1, "hosts", 'missing key "directory"'),
        (12, 1, "apps.site.max_clients_per_ip", 'unknown key "max_clients_per_ip"'),
        (13, 66, "apps.site.passthrough.upstream[1].location",
         '"http://x:80" is a URL, but a location is a host and a port'),
        (13, 90, "apps.site.passthrough.upstream[1].weight", "expected a whole number from 1 to 1000, got 0"),
        (16, 15, 'apps."my site".server_name', '"example.org" is already a name of apps.site, line 11'),
        (17, 43, 'apps."my site".passthrough.upstream[0].location',
         '"10.0.0.1:99999": expected a port from 1 to 65535, got 99999'),
        (17, 79, 'apps."my site".passthrough.load_balance',
         "sticky needs a cookie, and there is none in a stream that stays encrypted"),
        (19, 18, 'apps."my site".reverse_proxy[0]', 'missing key "upstream"'),
        (21, 26, 'apps."my site".reverse_proxy[1].upstream[0].location', '"::1" is no location'),
        (21, 39, 'apps."my site".reverse_proxy[1].upstream[0].tls',
         "expected true or false, got the number 1"),
        (22, 16, 'apps."my site".reverse_proxy[1].load_balance',
         'expected one of "none", "round_robin", "random", "sticky", "least_connections", "source_ip", '
         '"primary_backup", got the text "roundrobin"'),
        (23, 7, "apps.third", "this app serves nothing: it has neither passthrough nor reverse_proxy"),
    ]  # fmt: skip


def test_a_problem_is_printed_with_its_line_a_caret_and_a_hint():
    text = [str(problem) for problem in problems(BAD)]
    assert text[0].split("\n") == [
        'x.toml:2:1: lisen_port: unknown key "lisen_port"',
        "    lisen_port = 8080",
        "    ^",
        '    did you mean "listen_port"?',
    ]
    assert text[4].endswith('\n    it is called "public_https_port" now')
    assert text[8].endswith(
        '\n    "max_clients_per_ip" belongs at the top of the file, above the first [table]'
    )
    assert text[12].split("\n")[1:3] == [
        '    \tpassthrough = { upstream = [{ location = "10.0.0.1:99999" }], load_balance = "sticky" }',
        "    \t" + " " * 41 + "^",
    ]
    assert text[-2].endswith('\n    did you mean "round_robin"?')


def test_windows_line_ends_change_nothing():
    assert [str(p) for p in problems(BAD.replace("\n", "\r\n"))] == [str(p) for p in problems(BAD)]


@pytest.mark.parametrize(
    ("text", "line", "column", "message", "hint"),
    [
        ("a = b", 1, 5, "not valid TOML: Invalid value", 'texts need quotes: key = "text"'),
        ("\n[apps.a\n", 2, 8, "not valid TOML: Expected ']' at the end of a table declaration", ""),
        ("a = 1\na = 2\n", 2, 6, "not valid TOML: Cannot overwrite a value", "this key stands here twice"),
        ('a = "x', 1, 7, "not valid TOML: Unterminated string", "the closing quote is missing"),
        ("listen_port_tls: 443", 1, 16, "not valid TOML: Expected '=' after a key in a key/value pair",
         "a line is a [table], or key = value"),
    ],
)  # fmt: skip
def test_what_is_no_toml_is_one_problem_with_its_place(text, line, column, message, hint):
    problem = only_problem(parse, text, "x.toml")
    assert (problem.line, problem.message, problem.hint) == (line, message, hint)
    assert abs(problem.column - column) <= 1  # at the end of a line or of the file, Pythons differ by one
    assert problem.source == text.split("\n")[line - 1]


@pytest.mark.parametrize(
    "text", ["a=" + "[" * 50_000, "a=" + "[" * 40 + "]" * 40, ".".join("a" * 40) + " = 1"]
)
def test_deep_nesting_is_one_problem(text):
    assert "more than 32 deep" in only_problem(parse, text, "x.toml").message


def test_a_number_that_python_will_not_read_is_one_problem():
    assert only_problem(parse, "a = " + "9" * 5000, "x.toml").message.startswith("not valid TOML: ")


@pytest.mark.parametrize(
    "key", ["hosts", "listen_port_tls", "max_clients", "hello_timeout", "apps", "nonsense"]
)
def test_a_number_that_python_refuses_to_print_is_a_mistake_of_the_file(key):
    with pytest.raises(ConfigError) as caught:
        parse(f"{key} = 0x{'f' * 6000}\n", "x.toml")
    assert key in [problem.key for problem in caught.value.problems]
    assert "set_int_max_str_digits" not in str(caught.value)


def test_nul_and_byte_order_mark_are_named():
    problem = only_problem(parse, "a = 1\nb = '\0'", "x.toml")
    assert (problem.message, problem.line, problem.column) == ("the file contains a NUL character", 2, 6)
    problem = only_problem(parse, "\ufeffa = 1", "x.toml")
    assert (problem.message, problem.line, problem.column) == ("the file begins with a byte order mark", 1, 1)


@pytest.mark.parametrize(
    ("content", "line", "column"),
    [(b"a = '\xff'", 1, 6), ("# \u20ac\n# \u20ac".encode() + b"\xe9\n", 2, 4), (b"\xff\xfea", 1, 1)],
)
def test_a_file_that_is_not_utf8_is_refused_with_the_place(tmp_path, content, line, column):
    file = tmp_path / "x.toml"
    file.write_bytes(content)
    problem = only_problem(load, file)
    assert problem.message.startswith("the file is not UTF-8: byte 0x")
    assert (problem.line, problem.column, problem.hint) == (line, column, "save it as UTF-8")


def test_no_file_a_directory_and_an_impossible_name_are_one_problem_each(tmp_path):
    assert only_problem(load, tmp_path / "x.toml").message == "there is no such file"
    assert only_problem(load, tmp_path).message == "this is a directory, not a file"
    assert only_problem(load, "a\0b").message.startswith("cannot be read: ")
    assert only_problem(load, tmp_path / ("x" * 300)).message == "cannot be read: File name too long"
    assert only_problem(load, "/proc/self/mem").message == "cannot be read: Input/output error"
    assert only_problem(load, tmp_path / "x.toml").file == str(tmp_path / "x.toml")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_one_problem(tmp_path):
    file = tmp_path / "x.toml"
    file.write_text(GOOD)
    file.chmod(0)
    assert only_problem(load, file).message == "cannot be read: Permission denied"


def test_a_symlink_that_leads_to_itself_is_one_problem(tmp_path):
    file = tmp_path / "x.toml"
    file.symlink_to(file)
    assert only_problem(load, file).message == "cannot be read: Too many levels of symbolic links"


def test_sixteen_mebibytes_are_read_and_one_byte_more_is_not(tmp_path):
    file = tmp_path / "x.toml"
    rest = b"#" * (MAX_FILE - len(GOOD))
    file.write_bytes(GOOD.encode() + rest)
    assert load(file).listen_port_tls == 8443
    file.write_bytes(GOOD.encode() + rest + b"#")
    assert only_problem(load, file).message == "the file has more than 16 MiB"
    assert only_problem(load, "/dev/zero").message == "the file has more than 16 MiB"


def test_an_empty_file_says_what_is_missing():
    assert [problem.message for problem in problems("")] == [
        "nothing to listen on: no listen_port_tls, listen_port, listen_tls or listen",
        "nothing to serve: no [apps.<name>], no [hosts], no [l4.<name>]",
    ]


def test_long_lines_are_not_printed_whole():
    assert problems("max_clients = " + "1" * 1000)[2].source == "max_clients = " + "1" * 186
    assert problems(" " * 300 + "max_clients = 0")[2].source == ""


def test_characters_that_move_the_cursor_are_not_printed():
    [problem] = [p for p in problems("max_clients = 0 # \x85\u202e") if p.line]
    assert problem.source == "max_clients = 0 # ··"


def test_problems_are_plain_text_whatever_a_key_is():
    for problem in problems('"\\u001b[31m" = 1\n[apps."a\\nb"]\n[apps."c\\u202e".x]\n'):
        assert all(line.isprintable() for line in str(problem).split("\n"))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""), (("apps", "site", "upstream", 1, "location"), "apps.site.upstream[1].location"),
        (("apps", "my site", "tls"), 'apps."my site".tls'), (("a.b", '"', "\n"), r'"a.b"."\u0022"."\u000a"'),
    ],
)  # fmt: skip
def test_key_paths_are_shown_as_people_write_them(path, text):
    assert shown(path) == text


def test_a_consequence_of_a_mistake_is_no_second_problem():
    assert len(problems(GOOD.replace("8443", "0"))) == 1  # not: nothing to listen on
    assert len(problems(GOOD.replace("listen_port_tls", "listen_prt_tls"))) == 1
    assert len(problems(GOOD.replace("10.0.0.5", "a:0"))) == 1  # not: serves nothing
    assert len(problems(GOOD.replace("passthrough", "pasthrough"))) == 1


def app(index):
    return (
        f'[apps.a{index}]\nserver_name = ["n{index}.example", "*.n{index}.example"]\n'
        f'[[apps.a{index}.passthrough.upstream]]\nlocation = "10.0.0.1:{index + 1}"\nweight = 3\n'
    )


def test_two_thousand_apps_load_within_a_second_of_processor_time():
    text = "listen_port_tls = 443\n" + "".join(map(app, range(2000)))
    before = time.process_time()
    assert len(parse(text, "x.toml").apps) == 2000
    assert time.process_time() - before < 1.0


def test_two_thousand_problems_cost_seconds_not_minutes():
    text = "listen_port_tls = 443\n" + "".join(map(app, range(2000))).replace("weight", "wieght")
    before = time.process_time()
    assert len(problems(text)) == 2000
    assert time.process_time() - before < 5.0


def outcome(call, *arguments):
    try:
        found = call(*arguments)
    except ConfigError as error:
        return error.problems
    return found


def assert_sound(found):
    """A configuration, or problems that can be printed."""
    assert found
    for problem in [] if isinstance(found, Configuration) else found:
        assert problem.message
        assert (problem.line == 0) == (problem.column == 0)
        assert all(line.replace("\t", " ").isprintable() for line in str(problem).split("\n"))


@given(st.text())
def test_any_text_is_a_configuration_or_problems(text):
    assert_sound(outcome(parse, text, "x.toml"))


@given(st.binary())
def test_any_bytes_in_a_file_are_a_configuration_or_problems(tmp_path_factory, content):
    file = Path(tmp_path_factory.getbasetemp()) / "any.toml"
    file.write_bytes(content)
    assert_sound(outcome(load, file))


KNOWN = """
apps l4 hosts acme experimental site tls upstream location reverse_proxy passthrough server_name load_balance
listen_port listen_port_tls listen listen_tls from accept_proxy_protocol health_check path default_app h3
cache default_passthrough authorized_groups upstream_options [key] x
"""
WRITTEN = r"""
1 0 -1 true nan inf 1e400 443 "sticky" "example.org" "10.0.0.1:80" "demo:" "" "\u0000" "http://x" "10s"
"*" 1979-05-27 07:32:00 "auto" "site" 'unix:x'
"""
WORDS = st.sampled_from(KNOWN.split())
SCALARS = st.sampled_from(WRITTEN.split())
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]")
        | st.dictionaries(WORDS, inner, max_size=4).map(
            lambda table: "{" + ", ".join(f'"{key}" = {item}' for key, item in table.items()) + "}"
        )
    ),
)
KEYS = st.lists(WORDS, min_size=1, max_size=4).map(lambda words: ".".join(f'"{word}"' for word in words))
LINES = (
    st.tuples(KEYS, VALUES).map(" = ".join)
    | KEYS.map(lambda key: f"[{key}]")
    | KEYS.map(lambda key: f"[[{key}]]")
    | st.just("[apps.site]")
    | st.just("[[apps.site.reverse_proxy]]")
)


@given(st.lists(LINES, max_size=8).map("\n".join))
def test_any_shape_of_known_words_is_a_configuration_or_problems(text):
    assert_sound(outcome(parse, text, "x.toml"))
