"""What has to go together in services, and from one to the next, each with its sentence and its place."""

import pytest

from rproxy.config.load import parse
from rproxy.errors import ConfigError

FILES = "tls_cert_path = 'a', tls_cert_key_path = 'b'"
PLAIN = ""
TLS = f"tls = {{ {FILES} }}"
MUTUAL = f"tls = {{ {FILES}, client_ca_cert_path = 'ca' }}"


def service(*lines, name="db", listen="':1'"):
    return "\n".join([f"[l4.{name}]", f"listen = {listen}", "upstream = [{ location = 'a:1' }]", *lines, ""])


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
        service(PLAIN),
        service(TLS),
        service(MUTUAL, "authorized_groups = 'x'", "authorized_names = 'y'", "alpn = 'z'"),
        service(MUTUAL, "server_name = 'a.example'")
        + service(TLS, "server_name = ['b.example', '*.example']", name="other")
        + service(TLS, name="rest"),
        service(TLS) + service(TLS, name="other", listen="'127.0.0.1:1'"),
        service("tls = { self_signed = true }", "server_name = 'a.example'"),
        "listen_port_tls = 2\n[hosts]\ndirectory = 'h'\n" + service(PLAIN),
    ],
)
def test_what_goes_together_is_accepted(text):
    assert found(text) == []


@pytest.mark.parametrize(
    ("line", "key", "why"),
    [
        ("authorized_groups = 'x'", "authorized_groups", "needs client certificates"),
        ("authorized_names = 'x'", "authorized_names", "needs client certificates"),
        ("server_name = 'a.example'", "server_name", "is compared with what TLS says"),
        ("alpn = 'x'", "alpn", "is said inside TLS"),
    ],
)
def test_what_needs_tls(line, key, why):
    assert found(service(line)) == [(f"l4.db.{key}", f"{key} {why}, and this service has no tls")]


@pytest.mark.parametrize("key", ["authorized_groups", "authorized_names"])
def test_who_may_is_of_no_use_without_client_certificates(key):
    message = f"{key} needs client certificates, and tls has no client_ca_cert_path"
    assert found(service(TLS, f"{key} = 'x'")) == [(f"l4.db.{key}", message)]


def test_a_certificate_needs_a_source():
    assert found(service("tls = {}")) == [("l4.db.tls", "tls needs one source of certificates, it has none")]


def test_what_is_about_http():
    text = service(f"tls = {{ {FILES}, https_redirection = false }}")
    message = "https_redirection is about HTTP, and this is a TCP service"
    assert found(text) == [("l4.db.tls.https_redirection", message)]


@pytest.mark.parametrize("source", ["self_signed", "acme"])
def test_a_certificate_that_is_made_needs_a_name(source):
    text = service(f"tls = {{ {source} = true }}") + "[acme]\nemail = 'a@b'"
    message = f"{source} = true needs a server_name to make a certificate for"
    assert found(text) == [(f"l4.db.tls.{source}", message)]


def test_a_listener_that_others_have():
    text = "listen = 'tcp:7'\nlisten_tls = 'tcp:8'\nlisten_port = 5\nlisten_port_tls = 6\n"
    assert found(text + "hosts.directory = 'h'", service(listen="[':5', ':6', ':7', ':8', ':9']")) == [
        ("l4.db.listen[0]", "port 5 is already listen_port, line 3"),
        ("l4.db.listen[1]", "port 6 is already listen_port_tls, line 4"),
        ("l4.db.listen[2]", '"tcp:7" is already in listen, line 1'),
        ("l4.db.listen[3]", '"tcp:8" is already in listen_tls, line 2'),
    ]


def test_a_listener_twice():
    assert found(service(listen="[':1', 'tcp:1']")) == [
        ("l4.db.listen[1]", '"tcp:1" is listed twice, line 2')
    ]


@pytest.mark.parametrize("tls", [(PLAIN, TLS), (TLS, PLAIN), (PLAIN, PLAIN)])
def test_services_on_one_listener_need_tls_to_be_told_apart(tls):
    text = service(tls[0], name="one") + service(tls[1], name="two")
    message = '"tcp:1" is the listener of l4.one too, and not both have tls, line 2'
    assert found(text) == [("l4.two.listen", message)]


def test_a_name_leads_to_one_service():
    text = service(TLS, "server_name = ['a.example', 'b.example', 'b.example']", name="one")
    text += service(TLS, "server_name = ['c.example', 'A.example']", name="two")
    assert found(text) == [
        ("l4.one.server_name[2]", '"b.example" is listed twice, line 5'),
        ("l4.two.server_name[1]", '"a.example" is already for l4.one at "tcp:1", line 5'),
    ]


def test_one_service_takes_the_rest():
    text = service(TLS, name="one") + service(TLS, name="two")
    assert found(text) == [("l4.two", 'what has no other name is already for l4.one at "tcp:1", line 1')]


def test_the_upstreams_are_checked_as_those_of_apps():
    text = (
        "[l4.db]\nlisten = ':1'\nupstream = [{ location = 'a:1' }, { location = 'A:1', tls_insecure = true }]"
    )
    assert found(text) == [
        ("l4.db.upstream[1].location", '"A:1" is in this group already, line 3'),
        (
            "l4.db.upstream[1].tls_insecure",
            "tls_insecure is given, but this upstream is spoken to in clear text",
        ),
    ]


def test_a_finding_that_rests_on_something_spoilt_is_not_told():
    assert [key for key, _ in found(service("tls = 5", "authorized_groups = 'x'"))] == ["l4.db.tls"]
