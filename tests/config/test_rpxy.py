"""A file as rpxy reads it, with every shape that its documents show, works here unchanged.

What the examples of its introduction do once they are loaded is in `tests/e2e/test_rpxy_examples*.py`.
"""

from pathlib import Path

import pytest

from rproxy.config.load import parse
from rproxy.config.schema import Configuration
from rproxy.errors import ConfigError

RPXY = """\
listen_port = 8080
listen_port_tls = 8443
listen_ipv6 = false
tcp_listen_backlog = 1024
max_concurrent_streams = 100
max_clients = 512
default_app = 'second'

[apps]

[apps.first]
server_name = 'localhost' # a comment
tls = { https_redirection = true, tls_cert_path = './server.crt', tls_cert_key_path = './server.key' }

[[apps.first.reverse_proxy]]
upstream = [
  { location = 'www.example.com', tls = true },
  { location = 'www.example.net', tls = true }, # another one
]
load_balance = "round_robin"
upstream_options = [
  "keep_original_host",   # and a reason
  "force_http2_upstream",
]

[[apps.first.reverse_proxy]]
path = '/maps'
replace_path = "/replacing/path1"
upstream = [{ location = 'example.com:8080' }]

[apps.second]
server_name = 'localhost.localdomain'
reverse_proxy = [{ location = 'example.org', tls = true }]
load_balance = "sticky"

[apps.third]
server_name = 'third.example'
reverse_proxy = [{ upstream = [{ location = 'example.com', tls = true }] }]
tls = { https_redirection = true, acme = true }

[experimental]
ignore_sni_consistency = false
connection_handling_timeout = 0 # seconds

[experimental.h3]
request_max_body_size = 65536
max_idle_timeout = 10

[experimental.cache]
cache_dir = './cache'
max_cache_each_size_on_memory = 4096

[experimental.acme]
dir_url = "https://localhost:14000/dir"
email = "test@example.com"
registry_path = "./acme_registry"

[experimental.tcp_recv_proxy_protocol]
trusted_proxies = ["127.0.0.1/32", "10.0.0.0/8"]
timeout = 50
"""


def test_a_file_written_for_rpxy_needs_no_change():
    config = parse(RPXY, "/etc/x.toml", rows=())
    assert config.default_app == "second"
    assert [entry.path for entry in config.apps["first"].reverse_proxy] == ["/", "/maps"]
    assert config.apps["second"].reverse_proxy[0].load_balance == "sticky"
    assert config.acme.registry_path == Path("/etc/acme_registry")
    assert config.accept_proxy_protocol.timeout == 0.05
    assert config.accept_proxy_protocol.required


PORTS = "listen_port = 80\nlisten_port_tls = 443\n"
FILES = "tls_cert_path = './server.crt', tls_cert_key_path = './server.key'"
SITE = f"[apps.localhost]\nserver_name = 'localhost'\ntls = {{ {FILES} }}\n"
TO_IT = "reverse_proxy = [{ upstream = [{ location = 'app1.local:8080' }] }]\n"

CLIENT_CERTIFICATES = SITE.replace(" }", ", client_ca_cert_path = './client_cert.ca.crt' }") + TO_IT
HTTP3 = """\
[experimental.h3]
alt_svc_max_age = 3600
request_max_body_size = 65536
max_concurrent_connections = 10000
max_concurrent_bidistream = 100
max_concurrent_unistream = 100
max_idle_timeout = 10
"""
CACHE = """\
[experimental.cache]
cache_dir = './cache'                # a comment
max_cache_entry = 1000
max_cache_each_size = 65535
max_cache_each_size_on_memory = 4096
"""
ACME = """\
[apps.localhost_with_acme]
server_name = 'example.org'
reverse_proxy = [{ upstream = [{ location = 'example.com', tls = true }] }]
tls = { https_redirection = true, acme = true }

[experimental.acme]
dir_url = "https://localhost:14000/dir"
email = "test@example.com"
registry_path = "./acme_registry"
"""
HTTP2 = SITE + TO_IT.replace("] }]", '], upstream_options = ["force_http2_upstream"] }]')
TO_COME = {
    "client_ca_cert_path": PORTS + CLIENT_CERTIFICATES,
    "experimental.h3": PORTS + SITE + TO_IT + HTTP3,
    "experimental.cache": PORTS + SITE + TO_IT + CACHE,
    "acme": PORTS + ACME,
    "force_http2_upstream": PORTS + HTTP2,
    "max_concurrent_streams": PORTS + "max_concurrent_streams = 100\n" + SITE + TO_IT,
    "connection_handling_timeout": PORTS
    + SITE
    + TO_IT
    + "[experimental]\nconnection_handling_timeout = 30\n",
}
"""What is or was not built yet, with the name by which the documents list it as long as it is refused."""


@pytest.mark.parametrize("key", TO_COME)
def test_what_is_to_come_is_understood_and_the_documents_say_whether_it_is_refused(key: str) -> None:
    assert isinstance(loaded(TO_COME[key]), Configuration)
    try:
        parse(TO_COME[key], "/etc/x.toml")
        refused = False
    except ConfigError as error:
        said = {problem.message.partition(" (")[0] for problem in error.problems}
        assert said == {"not supported yet"}
        refused = True
    documents = Path(__file__).parents[2] / "docs" / "configuration.md"
    section = documents.read_text().partition("## Not supported yet")[2].partition("```")[0]
    assert (f"{key}`" in section or f"[{key}]" in section) is refused


def test_values_of_what_is_to_come_are_those_written() -> None:
    config = loaded(PORTS + CLIENT_CERTIFICATES + HTTP3 + CACHE)
    h3, cache, tls = config.experimental.h3, config.experimental.cache, config.apps["localhost"].tls
    assert h3 is not None
    assert cache is not None
    assert tls is not None
    assert tuple(h3.model_dump().values()) == (3600, 65536, 10000, 100, 100, 10)
    assert tuple(cache.model_dump().values()) == (Path("/etc/cache"), 1000, 65535, 4096)
    assert tls.client_ca_cert_path == Path("/etc/client_cert.ca.crt")


def test_a_backend_is_asked_in_one_version() -> None:
    both = HTTP2.replace('"force_http2_upstream"', '"force_http11_upstream", "force_http2_upstream"')
    with pytest.raises(ConfigError, match="exclude each other"):
        loaded(PORTS + both)


def test_locations_in_the_array_itself_are_one_group() -> None:
    locations = "[\n  { location = 'app1.local:8080' },\n  { location = 'app2.local:8000' }\n]\n"
    text = f"listen_port = 80\n[apps.\"app_name\"]\nserver_name = 'x'\nreverse_proxy = {locations}"
    (entry,) = loaded(text + "load_balance = 'round_robin'\n").apps["app_name"].reverse_proxy
    assert [str(upstream.location) for upstream in entry.upstream] == ["app1.local:8080", "app2.local:8000"]
    assert (entry.path, entry.load_balance) == ("/", "round_robin")


def test_https_redirection_without_a_clear_text_port_redirects_nothing() -> None:
    app = loaded("listen_port_tls = 443\n" + SITE.replace("{ ", "{ https_redirection = true, ") + TO_IT)
    assert app.apps["localhost"].tls is not None


def loaded(text: str) -> Configuration:
    return parse(text, "/etc/x.toml", rows=())
