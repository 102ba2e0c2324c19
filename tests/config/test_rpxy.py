"""A file as rpxy reads it, with every shape that its documents show, works here unchanged."""

from pathlib import Path

from rproxy.config.load import parse

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
