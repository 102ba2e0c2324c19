"""Keys about client certificates: the forms they take, and what does not go together."""

from __future__ import annotations

from pathlib import Path

import pytest

from rproxy.config.apps import App, Tls
from rproxy.config.load import parse
from rproxy.errors import ConfigError

FILES = 'tls_cert_path = "a", tls_cert_key_path = "b"'
PORTS = "listen_port = 80\nlisten_port_tls = 443\n"
PROXY = 'reverse_proxy = { location = "a" }\n'
STREAM = 'passthrough = { upstream = [{ location = "a" }] }\n'


def app(tls: str = "", *lines: str, rest: str = PROXY) -> str:
    ends = f"tls = {{ {FILES}, {tls} }}\n".replace(",  }", " }") if rest is PROXY else ""
    return "[apps.site]\nserver_name = 'a.example'\n" + "".join(f"{line}\n" for line in lines) + ends + rest


def service(tls: str, *lines: str) -> str:
    more = "".join(f"{line}\n" for line in lines)
    return f"[l4.db]\nlisten = ':1'\ntls = {{ {FILES}, {tls} }}\nupstream = [{{ location = 'a:1' }}]\n{more}"


CA = 'client_ca_cert_path = "ca"'


def found(text: str) -> list[tuple[str, str]]:
    """Key and message of every problem."""
    try:
        parse(text, "/etc/x.toml")
    except ConfigError as error:
        return [(problem.key, problem.message) for problem in error.problems]
    return []


def read(text: str) -> tuple[App, Tls]:
    site = parse(text, "/etc/x.toml").apps["site"]
    assert site.tls is not None
    return site, site.tls


def test_the_authority_alone_means_that_a_certificate_is_required() -> None:
    """R-A-11."""
    site, tls = read(PORTS + app(CA))
    assert (tls.client_ca_cert_path, tls.client_auth) == (Path("/etc/ca"), "required")
    assert (tls.client_crl_path, tls.client_cert_header) == (None, False)
    assert (site.authorized_groups, site.authorized_names) == ((), ())


def test_everything_that_can_be_said() -> None:
    more = 'client_auth = "optional", client_crl_path = "x.crl", client_cert_header = true'
    lines = ("authorized_groups = 'admin'", "authorized_names = ['bob@x', 'spiffe://x/y']")
    site, tls = read(PORTS + app(f"{CA}, {more}", *lines))
    assert (tls.client_auth, tls.client_crl_path) == ("optional", Path("/etc/x.crl"))
    assert tls.client_cert_header
    assert (site.authorized_groups, site.authorized_names) == (("admin",), ("bob@x", "spiffe://x/y"))


@pytest.mark.parametrize("value", ['"require"', '"on"', "true", "1", '""', "[]"])
def test_other_values_of_client_auth_are_refused(value: str) -> None:
    ((key, message),) = found(PORTS + app(f"{CA}, client_auth = {value}"))
    assert key == "apps.site.tls.client_auth"
    assert "required" in message
    assert "optional" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [("client_auth", '"required"'), ("client_crl_path", '"x.crl"'), ("client_cert_header", "false")],
)
def test_what_is_about_client_certificates_needs_an_authority(key: str, value: str) -> None:
    message = f"{key} is about client certificates, and there is no client_ca_cert_path"
    assert found(PORTS + app(f"{key} = {value}")) == [(f"apps.site.tls.{key}", message)]
    if key != "client_cert_header":
        assert found(service(f"{key} = {value}")) == [(f"l4.db.tls.{key}", message)]


@pytest.mark.parametrize("key", ["authorized_groups", "authorized_names"])
@pytest.mark.parametrize("rest", [PROXY, STREAM])
def test_who_may_can_only_be_said_where_clients_are_known(key: str, rest: str) -> None:
    message = f"{key} needs client certificates, and this app has no client_ca_cert_path"
    assert found(PORTS + app("", f"{key} = 'x'", rest=rest)) == [(f"apps.site.{key}", message)]


@pytest.mark.parametrize("key", ["authorized_groups", "authorized_names"])
def test_nobody_is_no_list_of_those_who_may(key: str) -> None:
    """It would let everybody in."""
    for value in ("[]", "['']"):
        ((where, _),) = found(PORTS + app(CA, f"{key} = {value}"))
        assert where.startswith(f"apps.site.{key}")


CLEAR = "requests in clear text would be served without the client certificates that TLS requires"


def test_clear_text_is_no_way_around() -> None:
    here, there = "https_redirection = false", f"{CA}, https_redirection = false"
    assert found(PORTS + app(CA, here)) == [("apps.site.https_redirection", CLEAR)]
    assert found(PORTS + app(there)) == [("apps.site.tls.https_redirection", CLEAR)]
    unix = "listen = 'unix:/x'\nlisten_port_tls = 443\n"
    assert found(unix + app(CA, here)) == [("apps.site.https_redirection", CLEAR)]


def test_clear_text_is_fine_where_it_redirects_or_is_not_served_or_nobody_has_to_be_known() -> None:
    off = "https_redirection = false"
    assert found(PORTS + app(CA)) == []
    assert found(PORTS + app(CA, "https_redirection = true")) == []
    assert found("listen_port_tls = 443\n" + app(CA, off)) == []
    assert found(PORTS + app(f'{CA}, client_auth = "optional"', off)) == []


def test_a_service_has_no_use_for_clients_without_a_certificate_nor_for_fields() -> None:
    message = "a TCP service has nothing to offer to clients without a certificate"
    assert found(service(f'{CA}, client_auth = "optional"')) == [("l4.db.tls.client_auth", message)]
    message = "client_cert_header is about HTTP, and this is a TCP service"
    assert found(service(f"{CA}, client_cert_header = true")) == [("l4.db.tls.client_cert_header", message)]
    assert found(service(f'{CA}, client_crl_path = "x"', "authorized_groups = 'a'")) == []
