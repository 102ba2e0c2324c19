"""Parts of a file that do not go together, each with its sentence. All features count as built here."""

from pathlib import Path

import pytest

from rproxy.config.checks import check
from rproxy.config.load import parse
from rproxy.config.schema import Configuration
from rproxy.errors import ConfigError

TLS = 'tls_cert_path = "a", tls_cert_key_path = "b"'
STREAM = 'passthrough = { upstream = [{ location = "a" }] }'
PROXY = 'reverse_proxy = { location = "a" }'
PROBED = "reverse_proxy = { location = 'a', health_check = { %s } }"


def app(*lines, name="site", server_name="a.example"):
    return "\n".join([f"[apps.{name}]", f'server_name = "{server_name}"', *lines, ""])


def found(*parts):
    """Key and message of every problem."""
    try:
        parse("\n".join(parts), "x.toml", rows=())
    except ConfigError as error:
        return [(problem.key, problem.message) for problem in error.problems]
    return []


@pytest.mark.parametrize(
    "text",
    [
        "listen_port_tls = 443\n" + app(STREAM),
        "listen_tls = ['fd:0']\n[hosts]\ndirectory = 'h'",
        "listen_port = 80\n" + app(PROXY),
        "listen_port = 80\nlisten_port_tls = 443\ndefault_app = 'SITE'\n" + app(f"tls = {{ {TLS} }}", PROXY),
        "listen_port = 80\nlisten_port_tls = 443\n" + app(STREAM, PROXY),
        "listen_port_tls = 443\n[acme]\nemail = 'a@b'\n" + app("tls = { acme = true }", PROXY),
        f"[l4.db]\nlisten = ':1'\ntls = {{ {TLS} }}\nupstream = [{{ location = 'a:1' }}]",
        "listen_port_tls = 443\n" + app(STREAM) + app(STREAM, name="other", server_name="*.a.example"),
        "listen_port = 80\nlisten_port_tls = 443\n" + app("https_redirection = true", STREAM),
        "listen_port = 80\nlisten_port_tls = 443\n" + app("https_redirection = false", STREAM, PROXY),
        "listen_port = 80\naccess_log.path = 'a'\n"
        + app("access_log = { path = 'a', format = 'rpxy' }", PROXY)
        + app("access_log = { path = 'b', format = 'json' }", PROXY, name="other", server_name="b.example"),
        "listen_port = 80\n" + app("load_balance = 'sticky'", "sticky_cookie.name = 'x'", PROXY),
    ],
)
def test_what_goes_together_is_accepted(text):
    assert found(text) == []


def test_equal_ports():
    """R-G-2."""
    assert found("listen_port = 443\nlisten_port_tls = 443", app(STREAM)) == [
        ("listen_port_tls", "port 443 is already listen_port, line 1")
    ]


def test_one_socket_for_clear_text_and_tls():
    assert found("listen = ['fd:0']\nlisten_tls = ['tcp:1', 'fd:0']", app(STREAM)) == [
        ("listen_tls[1]", '"fd:0" is already in listen, line 1')
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [("listen_address_v4", '"127.0.0.1"'), ("listen_address_v6", '"::1"'), ("listen_ipv6", "true")],
)
def test_an_address_without_a_port(key, value):
    line = f"{key} = {value}\n"
    assert found("listen_tls = 'tcp:8443'", line, app(STREAM)) == [
        (key, f"{key} is for listen_port and listen_port_tls, and neither is given")
    ]
    assert found("listen_port_tls = 8443", line, app(STREAM)) == []
    assert found("listen_port = 8080", line, app(PROXY)) == []


def test_a_port_to_redirect_to_without_tls():
    """R-G-6."""
    assert found("listen_port = 80\npublic_https_port = 443", app(PROXY)) == [
        ("public_https_port", "public_https_port is given, but there is no TLS port to redirect to")
    ]


def test_a_name_belongs_to_one_app():
    """R-A-13."""
    first = app(STREAM, server_name="bücher.example")
    second = app(STREAM, name="other", server_name="XN--bcher-kva.example.")
    assert found("listen_port_tls = 1", first, second) == [
        ("apps.other.server_name", '"xn--bcher-kva.example" is already a name of apps.site, line 3')
    ]


def test_a_name_stands_once():
    text = f'listen_port_tls = 1\n[apps.site]\nserver_name = ["a.example", "A.example"]\n{STREAM}'
    assert found(text) == [("apps.site.server_name[1]", '"a.example" is listed twice, line 3')]


def test_an_app_that_serves_nothing():
    assert found("listen_port_tls = 1", app()) == [
        ("apps.site", "this app serves nothing: it has neither passthrough nor reverse_proxy")
    ]


def test_terminating_and_passing_on():
    assert found("listen_port_tls = 1", app(f"tls = {{ {TLS} }}", STREAM)) == [
        (
            "apps.site.tls",
            "TLS is either terminated here (tls) or passed on undecrypted (passthrough), not both",
        )
    ]


def test_sticky_for_an_app_with_a_stream():
    text = found("listen_port_tls = 1", app('load_balance = "sticky"', STREAM))
    assert text == [
        (
            "apps.site.load_balance",
            "sticky needs a cookie, and there is none in the passthrough stream of this app",
        )
    ]


@pytest.mark.parametrize(
    ("listeners", "lines", "expected"),
    [
        ("listen_port = 80", [STREAM],
         ("apps.site.passthrough", "this app has passthrough, but there is no TLS port")),
        ("listen_port = 80", [f"tls = {{ {TLS} }}", PROXY],
         ("apps.site.tls", "this app has tls, but there is no TLS port")),
        ("listen_port_tls = 1", [PROXY],
         ("apps.site.reverse_proxy", "this app serves clear-text HTTP only, and there is no port for it")),
    ],
)  # fmt: skip
def test_an_app_that_no_port_leads_to(listeners, lines, expected):
    """R-G-21, R-G-22."""
    assert found(listeners, app(*lines)) == [expected]


@pytest.mark.parametrize(
    ("tls", "expected"),
    [
        ("", ("apps.site.tls", "tls needs one source of certificates, it has none")),
        (f"{TLS}, self_signed = true",
         ("apps.site.tls", "tls needs one source of certificates, it has certificate files and self_signed")),
        ('tls_cert_path = "a"', ("apps.site.tls", 'missing key "tls_cert_key_path"')),
        ('tls_cert_key_path = "a"', ("apps.site.tls", 'missing key "tls_cert_path"')),
        ("acme = true", ("apps.site.tls.acme", "acme = true needs a table [acme] with an email address")),
    ],
)  # fmt: skip
def test_a_certificate_has_one_source(tls, expected):
    """R-A-9, R-A-12."""
    assert found("listen_port_tls = 1", app(f"tls = {{ {tls} }}", PROXY)) == [expected]


@pytest.mark.parametrize(("first", "second"), [("", ""), ("path = '/a'", "path = '/a/'"), ("path = '/'", "")])
def test_a_path_has_one_entry(first, second):
    """R-A-14."""
    group = "upstream = [{ location = 'a' }]"
    entries = [f"[[apps.site.reverse_proxy]]\n{group}\n{path}" for path in (first, second)]
    [(key, message)] = found("listen_port = 1", app(), *entries)
    assert key.startswith("apps.site.reverse_proxy[1]")
    assert message.startswith('the path "/')
    assert message.endswith((" has an entry already, line 5", " has an entry already, line 7"))


@pytest.mark.parametrize("other", ["A", "a:443"])
def test_a_peer_stands_once_in_a_group(other):
    text = f'passthrough = {{ upstream = [{{ location = "a" }}, {{ location = "{other}" }}] }}'
    assert found("listen_port_tls = 1", app(text)) == [
        ("apps.site.passthrough.upstream[1].location", f'"{other}" is in this group already, line 4')
    ]


def test_tls_settings_of_a_clear_text_peer():
    text = 'reverse_proxy = { location = "a", tls_insecure = true }'
    assert found("listen_port = 1", app(text)) == [
        (
            "apps.site.reverse_proxy.tls_insecure",
            "tls_insecure is given, but this upstream is spoken to in clear text",
        )
    ]


def test_half_a_client_certificate():
    text = 'reverse_proxy = { location = "a", tls = true, tls_client_cert_path = "c" }'
    [(_, message)] = found("listen_port = 1", app(text))
    assert message == "tls_client_cert_path and tls_client_key_path only work together"


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ("interval = 5, timeout = 5", "timeout (5 s) is not shorter than interval (5 s)"),
        ("type = 'http'", 'missing key "path"'),
    ],
)
def test_probes(probe, message):
    """R-HC-1."""
    assert [message for _, message in found("listen_port = 1", app(PROBED % probe))] == [message]


@pytest.mark.parametrize(
    ("probe", "keys"),
    [
        ("path = '/health'", ["path"]),
        ("type = 'tcp', expected_status = 200", ["expected_status"]),
        ("path = '/health', expected_status = 204, type = 'tcp'", ["path", "expected_status"]),
        ("type = 'http', path = '/health', expected_status = 204", []),
        ("type = 'tcp', interval = 9", []),
    ],
)
def test_a_probe_that_only_connects_has_nothing_to_ask_for(probe, keys):
    """R-HC-1: it would be taken for a check of what the server answers."""
    said = 'is given, but a check of the type "tcp" connects and asks for nothing'
    assert found("listen_port = 1", app(PROBED % probe)) == [
        (f"apps.site.reverse_proxy.health_check.{key}", f"{key} {said}") for key in keys
    ]


def test_what_a_probe_is_given_in_vain_depends_on_its_type_being_sound():
    check_of = {"server_name": "a.b", "reverse_proxy": {"location": "a", "health_check": {"path": "/x"}}}
    table = {"listen_port": 1, "apps": {"a": check_of}}
    [finding] = check(Configuration.model_validate(table, context={"base": Path("/")}))
    assert ("apps", "a", "reverse_proxy", 0, "health_check", "type") in finding.about


def test_what_a_probe_is_given_in_vain_is_pointed_at_and_has_a_way_out():
    text = "listen_port = 1\n" + app(PROBED % "path = '/health'")
    with pytest.raises(ConfigError) as told:
        parse(text, "x.toml", rows=())
    [problem] = told.value.problems
    assert problem.source[problem.column - 1 :].startswith("path = '/health'")
    assert (problem.line, problem.hint) == (4, 'add type = "http", or remove it')


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("default_passthrough = 'stie'", ("default_passthrough", 'there is no app "stie"')),
        ("default_app = 'site'",
         ("default_app", "apps.site has no reverse_proxy, so it cannot be the default_app")),
        ("default_passthrough = 'web'",
         ("default_passthrough", "apps.web has no passthrough, so it cannot be the default_passthrough")),
        ("default_app = 'web'\ndefault_application = 'web'",
         ("default_application", "default_app and default_application are the same thing, line 1")),
    ],
)  # fmt: skip
def test_defaults_name_an_app_that_can_be_one(line, expected):
    ports = "listen_port = 1\nlisten_port_tls = 2"
    assert found(line, ports, app(STREAM), app(PROXY, name="web", server_name="w.example")) == [expected]


def test_what_is_said_in_two_places():
    old = "[experimental]\nacme.email = 'a'\ntcp_recv_proxy_protocol.trusted_proxies = ['::1']"
    text = ["listen_port_tls = 1\naccept_proxy_protocol.from = '::1'\nacme.email = 'a'", app(STREAM), old]
    assert found(*text) == [
        ("experimental.acme", "[acme] says the same, line 3"),
        ("experimental.tcp_recv_proxy_protocol", "accept_proxy_protocol says the same, line 2"),
    ]


PORTS = "listen_port = 80\nlisten_port_tls = 443"


@pytest.mark.parametrize(
    ("lines", "key", "message"),
    [
        (["https_redirection = true", PROXY], "https_redirection",
         "this app has neither tls nor passthrough, so there is no https to redirect to"),
        (["https_redirection = true", STREAM, PROXY], "https_redirection",
         "clear-text requests go to reverse_proxy or to https, not both"),
        (["https_redirection = false", f"tls = {{ {TLS}, https_redirection = false }}", PROXY],
         "tls.https_redirection", "https_redirection of the app says the same, line 5"),
    ],
)  # fmt: skip
def test_redirects_that_lead_nowhere(lines, key, message):
    assert found(PORTS, app(*lines)) == [(f"apps.site.{key}", message)]


@pytest.mark.parametrize("wanted", ["true", "false"])
def test_a_redirect_needs_somewhere_to_lead_and_not_somewhere_to_begin(wanted):
    """R-G-21, but for the introduction's example that has no clear-text port."""
    own = [f"https_redirection = {wanted}", STREAM]
    old = [f"tls = {{ {TLS}, https_redirection = {wanted} }}", PROXY]
    assert found("listen_port_tls = 443", app(*own)) == found("listen_port_tls = 443", app(*old)) == []
    message = "https_redirection needs a TLS port to redirect to"
    assert ("apps.site.https_redirection", message) in found("listen_port = 80", app(*own))
    assert ("apps.site.tls.https_redirection", message) in found("listen_port = 80", app(*old))


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        (["sticky_cookie.name = 'x'", PROXY], "sticky_cookie"),
        (
            ["reverse_proxy = { location = 'a', sticky_cookie = { name = 'x' } }"],
            "reverse_proxy.sticky_cookie",
        ),
    ],
)
def test_a_cookie_without_the_balance_that_needs_it(lines, key):
    assert found("listen_port = 80", app(*lines)) == [
        (f"apps.site.{key}", "sticky_cookie is given, but load_balance is not sticky")
    ]


def test_a_log_file_has_one_format():
    one = app("access_log = { path = 'a' }", PROXY)
    two = app("access_log = { path = './a', format = 'json' }", PROXY, name="two", server_name="b.example")
    assert found("listen_port = 80", one, two) == [
        ("apps.two.access_log", "this file is written in the format rpxy already, line 4")
    ]


def test_ignoring_sni_is_said_once():
    old = "[experimental]\nignore_sni_consistency = true"
    assert found("ignore_sni_consistency = true\nlisten_port = 80", app(PROXY), old) == [
        ("experimental.ignore_sni_consistency", "ignore_sni_consistency says the same, line 1")
    ]


@pytest.mark.parametrize(
    "line", ["response_timeout = 1", "retries = 0", "keepalive = 1", "request_headers.remove = 'a'"]
)
def test_what_is_about_requests_where_there_are_none(line):
    key = line.split()[0].split(".")[0]
    message = f"{key} is about requests, and this app has no reverse_proxy"
    assert found("listen_port_tls = 1", app(line, STREAM)) == [(f"apps.site.{key}", message)]
    assert found("listen_port_tls = 1", app("connect_timeout = 1", STREAM)) == []
    assert found("listen_port = 1\nlisten_port_tls = 2", app(line, STREAM, PROXY)) == []
