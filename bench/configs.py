"""The configurations of nginx, HAProxy and rproxy for the same work, and of their backend. For proxies.py.

All three pass a name through by its ClientHello, serve a site in clear text and behind TLS, and end the
TLS of clients with a certificate for a TCP service. They keep connections to the backend and add
X-Forwarded-For and -Proto. Limits that would make one of them open connections anew, close idle ones
or spill to a disk are out of the way for all.
"""

from __future__ import annotations

from typing import NamedTuple

NAME = "pass.localhost"
"""Passed through; `localhost` is the site that the proxies serve themselves."""


class Rules(NamedTuple):
    """TOML that says who may come to rproxy, by its place: for everybody, the site, its paths."""

    everybody: str = ""
    site: str = ""
    paths: str = ""


NO_RULES = Rules()

BACKEND = """
worker_processes 1; daemon off; pid {d}/backend.pid; error_log {d}/backend.err;
events {{ worker_connections 20000; }}
http {{ access_log off; sendfile on; tcp_nopush on; keepalive_timeout 600s; keepalive_requests 1000000000;
  ssl_certificate {d}/cert.pem; ssl_certificate_key {d}/key.pem; ssl_protocols TLSv1.2 TLSv1.3;
  server {{ listen 127.0.0.1:{http} backlog=4096; listen 127.0.0.1:{tls} ssl backlog=4096; root {d}/www;
    location / {{ return 200 "hello\\n"; }}  location = /1g.bin {{ }} }} }}
"""
NGINX = """
worker_processes 1; daemon off; pid {d}/nginx.pid; error_log {d}/nginx.err;
events {{ worker_connections 20000; }}
http {{ access_log off; keepalive_timeout 600s; keepalive_requests 1000000000;
  ssl_certificate {d}/cert.pem; ssl_certificate_key {d}/key.pem; ssl_protocols TLSv1.2 TLSv1.3;
  upstream site {{ server 127.0.0.1:{backend}; keepalive 256; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{http} backlog=4096; listen 127.0.0.1:{tls} ssl http2 backlog=4096;
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
    proxy_max_temp_file_size 0; location / {{ proxy_pass http://site; }} }} }}
stream {{ map $ssl_preread_server_name $peer {{ {name} 127.0.0.1:{backend_tls}; }}
  server {{ listen 127.0.0.1:{sni} backlog=4096; ssl_preread on; proxy_pass $peer; proxy_timeout 600s; }}
  server {{ listen 127.0.0.1:{mtls} ssl backlog=4096;
    ssl_certificate {d}/cert.pem; ssl_certificate_key {d}/key.pem; ssl_client_certificate {d}/ca.pem;
    ssl_verify_client on; ssl_protocols TLSv1.3;
    proxy_pass 127.0.0.1:{backend}; proxy_timeout 600s; }} }}
"""
HAPROXY = """
global
  nbthread 1
  maxconn 9900
  maxpipes 20
defaults
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  option splice-auto
frontend web
  mode http
  bind 127.0.0.1:{http} backlog 4096
  bind 127.0.0.1:{tls} backlog 4096 ssl crt {d}/both.pem alpn h2,http/1.1
  option forwardfor
  http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
  default_backend site
backend site
  mode http
  http-reuse always
  server one 127.0.0.1:{backend}
frontend mtls
  mode tcp
  bind 127.0.0.1:{mtls} backlog 4096 ssl crt {d}/both.pem \
    ca-file {d}/ca.pem verify required ssl-min-ver TLSv1.3
  default_backend plain
backend plain
  mode tcp
  server one 127.0.0.1:{backend}
frontend sni
  mode tcp
  bind 127.0.0.1:{sni} backlog 4096
  tcp-request inspect-delay 5s
  tcp-request content accept if {{ req_ssl_hello_type 1 }}
  use_backend pass if {{ req_ssl_sni -i {name} }}
backend pass
  mode tcp
  server one 127.0.0.1:{backend_tls}
"""
RPROXY = """
listen = ["tcp:{http}:interface=127.0.0.1"]
listen_tls = ["tcp:{tls}:interface=127.0.0.1"]
tcp_listen_backlog = 4096
max_clients = 25000
keepalive_timeout = "10m"
{everybody}

[apps.site]
server_name = "localhost"
tls = {{ tls_cert_path = "cert.pem", tls_cert_key_path = "key.pem", https_redirection = false }}
reverse_proxy = [{{ upstream = [{{ location = "127.0.0.1:{backend}" }}] }}{paths}]
{site}

[apps.pass]
server_name = "{name}"
passthrough = {{ upstream = [{{ location = "127.0.0.1:{backend_tls}" }}] }}

[l4.mutual]
listen = "127.0.0.1:{mtls}"
tls = {{ tls_cert_path = "cert.pem", tls_cert_key_path = "key.pem", client_ca_cert_path = "ca.pem" }}
upstream = [{{ location = "127.0.0.1:{backend}" }}]
timeout = "10m"
"""
