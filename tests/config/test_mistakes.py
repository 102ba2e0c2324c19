"""Unknown keys: what was probably meant, or where the key belongs; and paths through a file's short forms."""

import pytest
from pydantic import ValidationError

from rproxy.config.mistakes import Mistake, Spoilt, mistakes_of, resolve
from rproxy.config.schema import Configuration

STREAM = {"upstream": [{"location": "a"}]}


def mistake(table):
    with pytest.raises(ValidationError) as caught:
        Configuration.model_validate(table)
    [found] = mistakes_of(caught.value, table)
    return found


@pytest.mark.parametrize(
    ("table", "path", "hint"),
    [
        ({"listen_prot": 1}, ("listen_prot",), 'did you mean "listen_port"?'),
        ({"https_redirection_port": 1}, ("https_redirection_port",), 'it is called "public_https_port" now'),
        ({"server_name": "a"}, ("server_name",), '"server_name" belongs in [apps.<name>] or in [l4.<name>]'),
        ({"hosts": {"directory": "a", "listen_port_tls": 1}}, ("hosts", "listen_port_tls"),
         '"listen_port_tls" belongs at the top of the file, above the first [table]'),
        ({"hosts": {"directory": "a", "qqq": 1}}, ("hosts", "qqq"), "known here: directory, hashed"),
        ({"qqqqqqqq": 1}, ("qqqqqqqq",), ""),
        ({"apps": {"tls": {"server_name": "a.example", "revese_proxy": []}}}, ("apps", "tls", "revese_proxy"),
         'did you mean "reverse_proxy"?'),
        ({"apps": {"a": {"server_name": "a.example", "passthrough": {**STREAM, "https_redirection": False}}}},
         ("apps", "a", "passthrough", "https_redirection"),
         '"https_redirection" belongs in [apps.<name>] or in [apps.<name>.tls] or in [l4.<name>.tls]'),
        ({"apps": {"a": {"server_name": "a.b", "reverse_proxy": {"location": "a", "replace_pth": "/"}}}},
         ("apps", "a", "reverse_proxy", "replace_pth"), 'did you mean "replace_path"?'),
        ({"apps": {"a": {"server_name": "a.example", "passthrough": {**STREAM, "location": "a"}}}},
         ("apps", "a", "passthrough", "location"),
         '"location" belongs in [apps.<name>.reverse_proxy.upstream] or in [apps.<name>.passthrough.upstream]'
         " or in [l4.<name>.upstream]"),
        ({"experimental": {"h3": {"alt_svc_maxage": 1}}}, ("experimental", "h3", "alt_svc_maxage"),
         'did you mean "alt_svc_max_age"?'),
        ({"accept_proxy_protocol": {"from": "::1", "from_": "::1"}}, ("accept_proxy_protocol", "from_"),
         'did you mean "from"?'),
    ],
)  # fmt: skip
def test_an_unknown_key_gets_a_hint(table, path, hint):
    found = mistake(table)
    assert (found.path, found.message, found.hint) == (path, f'unknown key "{path[-1]}"', hint)
    assert found.at_key


@pytest.mark.parametrize(
    ("table", "path", "message"),
    [
        ({"hosts": "x"}, ("hosts",), 'expected a table, got the text "x"'),
        ({"apps": []}, ("apps",), "expected a table, got a list"),
        ({"apps": {"a": 1}}, ("apps", "a"), "expected a table, got the number 1"),
        ({"hosts": {}}, ("hosts",), 'missing key "directory"'),
        ({"apps": {"a": {"server_name": "a.example", "passthrough": {"upstream": ["x"]}}}},
         ("apps", "a", "passthrough", "upstream", 0), 'expected a table, got the text "x"'),
        ({"apps": {"a": {"server_name": 5}}}, ("apps", "a", "server_name"),
         "expected a host name, got the number 5"),
        ({"apps": {"a": {"server_name": "a.example", "reverse_proxy": {"location": 5}}}},
         ("apps", "a", "reverse_proxy", "location"),
         'expected a location such as "10.0.0.5:443" or "unix:/run/app.sock", got the number 5'),
    ],
)  # fmt: skip
def test_mistakes_in_our_words_at_paths_of_the_file(table, path, message):
    found = mistake(table)
    assert (found.path, found.message) == (path, message)


def test_a_path_loses_the_steps_that_the_file_has_not():
    table = {"a": {"b": 1}, "c": [{"d": 1}]}
    assert resolve(table, ("a", 0, "x", 0, "b")) == ("a", "b")
    assert resolve(table, ("c", 0, "d")) == ("c", 0, "d")
    assert resolve(table, ("c", 1, "d")) == ("c",)
    assert resolve(table, ()) == ()


def test_a_mistake_spoils_what_is_around_it_and_in_it():
    spoilt = Spoilt([Mistake(("a", "b"), ""), Mistake(("x",), "", meant=("y",)), Mistake((), "")])
    assert all(path in spoilt for path in [("a",), ("a", "b"), ("a", "b", "c"), ("x",), ("y",), ("y", 0)])
    assert not any(path in spoilt for path in [("a", "c"), ("b",), ("z",)])
