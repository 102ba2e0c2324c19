"""The keys of the whole file: their defaults, their normal form, what is refused."""

import pytest
from pydantic import ValidationError

from rproxy.config.schema import Configuration


def read(**table):
    return Configuration.model_validate(table)


def refusal(**table):
    with pytest.raises(ValidationError) as caught:
        read(**table)
    [error] = caught.value.errors()
    return error


def test_defaults():
    config = Configuration()
    assert config.listen_addresses == ("0.0.0.0",)
    assert (config.tcp_listen_backlog, config.max_clients, config.max_clients_per_ip) == (1024, 512, 0)
    assert (config.drain_timeout, config.hello_timeout, config.connect_timeout) == (10.0, 10.0, 5.0)
    assert (config.idle_timeout, config.workers, config.apps, config.hosts) == (600.0, 1, {}, None)
    assert (config.request_max_body_size, config.max_concurrent_streams) == (256 << 20, 64)


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValidationError):
        Configuration().max_clients = 5


@pytest.mark.parametrize(
    ("table", "addresses"),
    [
        ({"listen_address_v4": "127.0.0.1"}, ("127.0.0.1",)),
        ({"listen_address_v4": ["10.0.0.1", "10.0.0.1", "10.0.0.2"]}, ("10.0.0.1", "10.0.0.2")),
        ({"listen_ipv6": True}, ("0.0.0.0", "::")),
        ({"listen_ipv6": True, "listen_address_v6": "[::1]"}, ("0.0.0.0", "::1")),
        ({"listen_address_v6": ["::1"]}, ("0.0.0.0", "::1")),
    ],
)
def test_addresses_to_listen_on_as_in_rpxy(table, addresses):
    """R-G-3 to R-G-5."""
    assert read(**table).listen_addresses == addresses


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"listen_address_v4": []}, "expected a list with something in it, got an empty one"),
        ({"listen_address_v4": ["0.0.0.0", "10.0.0.1"]}, '"0.0.0.0" already stands for every address'),
        ({"listen_address_v6": ["::1", "[::]"]}, '"::" already stands for every address'),
        ({"listen_address_v4": "x"}, '"x" is no IPv4 address'),
    ],
)
def test_addresses_that_make_no_sense_are_refused(table, message):
    assert str(refusal(**table)["ctx"]["error"]) == message


@pytest.mark.parametrize(("written", "workers"), [(1, 1), (1024, 1024), ("auto", "auto")])
def test_workers(written, workers):
    assert read(workers=written).workers == workers


@pytest.mark.parametrize("written", [0, 1025, "many", 1.5, True])
def test_other_numbers_of_workers_are_refused(written):
    refusal(workers=written)


def test_default_application_is_default_app():
    """R-G-16, C-6."""
    apps = {"Site": {"server_name": "a.example"}}
    settled = read(default_application="site", apps=apps).settled()
    assert (settled.default_app, settled.default_application) == ("Site", None)


def test_names_of_apps_may_differ_in_case():
    apps = {"Site": {"server_name": "a.example"}, "site": {"server_name": "b.example"}}
    assert read(default_passthrough="SITE", apps=apps).settled().default_passthrough == "Site"
    assert read(default_passthrough="site", apps=apps).settled().default_passthrough == "site"


def test_the_form_that_rpxy_has_for_the_proxy_protocol_makes_it_required():
    """R-E-14, R-E-15."""
    old = {"tcp_recv_proxy_protocol": {"trusted_proxies": ["10.0.0.0/8"], "timeout": 250}}
    settled = read(experimental=old).settled()
    accept = settled.accept_proxy_protocol
    assert accept is not None
    assert (accept.from_, accept.required, accept.timeout) == (("10.0.0.0/8",), True, 0.25)
    assert settled.experimental.tcp_recv_proxy_protocol is None
    refusal(experimental={"tcp_recv_proxy_protocol": {"trusted_proxies": []}})


def test_the_proxy_protocol_is_optional_unless_said_otherwise():
    accept = read(accept_proxy_protocol={"from": "unix"}).accept_proxy_protocol
    assert (accept.from_, accept.required, accept.timeout) == (("unix",), False, 3.0)


def test_acme_of_rpxy_moves_to_the_top():
    settled = read(experimental={"acme": {"email": "a@example.org", "registry_path": "/r"}}).settled()
    assert settled.acme.email == "a@example.org"
    assert settled.acme.dir_url == "https://acme-v02.api.letsencrypt.org/directory"
    assert settled.experimental.acme is None


def test_relative_defaults_are_absolute_too():
    config = Configuration.model_validate({"acme": {"email": "a"}, "experimental": {"cache": {}}}, context={})
    assert config.acme.registry_path.is_absolute()
    assert config.experimental.cache.cache_dir.is_absolute()


def test_unknown_keys_are_errors():
    assert refusal(max_client=5)["type"] == "extra_forbidden"


def test_a_name_of_an_app_is_printable():
    assert "printable" in str(refusal(apps={"a\nb": {"server_name": "a.example"}})["ctx"]["error"])


def test_configurations_that_say_the_same_are_equal():
    table = {"apps": {"a": {"server_name": "A.example", "passthrough": {"upstream": [{"location": "x"}]}}}}
    assert read(**table) == read(**table)
    assert read(**table) != read(max_clients=5, **table)
