"""The examples of rpxy's introduction with TLS, to clients and to backends, do what it promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import Peer, Serving
from tests.e2e.peers import nginx, self_signed
from tests.e2e.programs import Programs, accepts, environment, free_port, run
from tests.e2e.test_rpxy_examples import Front, refusal, showing

TO_HTTPS = """\
listen_port = 80

[apps.app1]
server_name = 'app1.example.com'
reverse_proxy = [
  { location = 'app1.localdomain:8080', tls = true }
]
"""


def https_backend(programs: Programs, peer: Peer, *names: str) -> dict[str, object]:
    """nginx with a certificate for `names` that nobody trusts yet, as the place of the example's location."""
    made, port = self_signed(programs.folder / "backend", *names), free_port()
    server = (
        f"server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {made.certificate};"
        f' ssl_certificate_key {made.key}; return 200 "$scheme, $ssl_server_name, $http_host\\n"; }}'
    )
    nginx(programs, peer("nginx"), server, ("127.0.0.1", port))
    return {"app1.localdomain:8080": f"localhost:{port}"}


def trusting_it(programs: Programs) -> dict[str, str]:
    """An environment in which that certificate is one of the system's authorities."""
    return environment(SSL_CERT_FILE=str(programs.folder / "backend" / "server.crt"))


def test_a_backend_is_asked_over_https_in_either_form(programs: Programs, peer: Peer) -> None:
    second = TO_HTTPS.partition("\n\n")[2].replace("app1", "app2").replace("[\n  {", "[{ upstream = [{")
    text = TO_HTTPS + second.replace("}\n]", "}] }]").replace("app2.localdomain", "app1.localdomain")
    places = https_backend(programs, peer, "localhost")
    front = Front(programs, peer, text, places, env=trusting_it(programs))
    for name in ("app1.example.com", "app2.example.com"):
        assert front.curl(f"http://{name}/") == f"https, localhost, {name}\n"


@pytest.mark.parametrize("why", ["nobody trusts it", "it is for another name"])
def test_a_backend_whose_certificate_is_no_good_is_not_asked(
    programs: Programs, peer: Peer, why: str
) -> None:
    unknown = why == "nobody trusts it"
    places = https_backend(programs, peer, "localhost" if unknown else "other.example")
    env = environment() if unknown else trusting_it(programs)
    front = Front(programs, peer, TO_HTTPS, places, env=env)
    answer = front.get("http://app1.example.com/")
    assert answer.status == 502
    front.proxy.says("certificate is self-signed" if unknown else "name mismatch")


def test_the_misspelt_key_of_the_introduction_is_pointed_at(programs: Programs) -> None:
    said = refusal(programs, TO_HTTPS.replace("reverse_proxy", "revese_proxy"))
    assert 'config.toml:5:1: apps.app1.revese_proxy: unknown key "revese_proxy"' in said
    assert 'did you mean "reverse_proxy"?' in said


TERMINATING = """\
listen_port = 80
listen_port_tls = 443

[apps."app_name"]
server_name = 'app1.example.com'
tls = { tls_cert_path = 'server.crt',  tls_cert_key_path = 'server.key' }
reverse_proxy = [{ upstream = [{ location = 'app1.local:8080' }] }]
"""


def terminating(programs: Programs, peer: Peer, serving: Serving, text: str = TERMINATING) -> Front:
    if not (programs.folder / "server.crt").exists():
        self_signed(programs.folder, "app1.example.com")
    backend = serving(showing("app1"))
    return Front(programs, peer, text, {"app1.local:8080": f"127.0.0.1:{backend.port}"})


def test_clear_text_and_tls_are_routed_in_the_same_fashion_where_redirection_is_off(
    programs: Programs, peer: Peer, serving: Serving
) -> None:
    text = TERMINATING.replace("tls = {", "tls = { https_redirection = false,")
    front = terminating(programs, peer, serving, text)
    answers = [front.get(f"{scheme}://app1.example.com/x?y") for scheme in ("http", "https")]
    assert [(a.status, a.backend, a.asked) for a in answers] == [(200, "app1", "GET /x?y HTTP/1.1")] * 2
    assert [answer.seen("X-Forwarded-Proto") for answer in answers] == [["http"], ["https"]]
    ports = [[str(front.clear)], [str(front.secure)]]
    assert [answer.seen("X-Forwarded-Port") for answer in answers] == ports


def test_tls_ends_at_the_proxy_and_clear_text_is_redirected_unless_told_otherwise(
    programs: Programs, peer: Peer, serving: Serving
) -> None:
    front = terminating(programs, peer, serving)
    request = "GET / HTTP/1.1\r\nHost: app1.example.com\r\nConnection: close\r\n\r\n"
    words: list[object] = [
        peer("openssl"),
        "s_client",
        "-connect",
        f"127.0.0.1:{front.secure}",
        "-quiet",
        "-ign_eof",
    ]
    words += ["-servername", "app1.example.com", "-verify_hostname", "app1.example.com"]
    words += ["-verify_return_error", "-CAfile", front.folder / "server.crt"]
    for version in ("-tls1_2", "-tls1_3"):
        assert "served by app1" in run([*words, version], stdin=None, input=request).stdout
    moved = front.get("http://app1.example.com/")
    assert (moved.status, moved.got("Location")) == (301, [f"https://app1.example.com:{front.secure}/"])


def test_without_listen_port_there_is_only_https(programs: Programs, peer: Peer, serving: Serving) -> None:
    front = terminating(programs, peer, serving, TERMINATING.replace("listen_port = 80\n", ""))
    assert front.get("https://app1.example.com/").backend == "app1"
    assert not accepts(("127.0.0.1", front.clear))


REDIRECTING = """\
listen_port = 80
listen_port_tls = 443

[apps."app_name"]
server_name = 'app1.example.com'
tls = { https_redirection = true, tls_cert_path = 'server.crt', tls_cert_key_path = 'server.key' }
reverse_proxy = [{ upstream = [{ location = 'app1.local:8080' }] }]
"""


def test_clear_text_is_redirected_to_the_same_place_in_https(
    programs: Programs, peer: Peer, serving: Serving
) -> None:
    front = terminating(programs, peer, serving, "public_https_port = 443\n" + REDIRECTING)
    there = ["https://app1.example.com/path/to?query=ok&b=%20"]
    for words, status in (((), 301), (("--head",), 301), (("--data", "x"), 308)):
        moved = front.get("http://app1.example.com/path/to?query=ok&b=%20", *words)
        assert (moved.status, moved.got("Location")) == (status, there)
    for words, asked in (((), "GET /x?y HTTP/1.1"), (("--data", "x"), "POST /x?y HTTP/1.1")):
        followed = front.curl("--location", *words, "http://app1.example.com/x?y")
        assert asked in followed.splitlines()


HEADER = {"pkcs1": "BEGIN RSA PRIVATE KEY", "pkcs8": "BEGIN PRIVATE KEY", "sec1": "BEGIN EC PRIVATE KEY"}


def test_a_key_works_as_an_authority_gave_it_and_converted(
    programs: Programs, peer: Peer, serving: Serving
) -> None:
    """One app for each form; the command that converts is that of the introduction."""
    backend, text = serving(showing("app1")), "listen_port_tls = 443\n"
    for form in HEADER:
        key_pair(peer("openssl"), programs.folder, form)
        text += (
            f"[apps.{form}]\nserver_name = '{form}.example.com'\n"
            f"tls = {{ tls_cert_path = '{form}.crt', tls_cert_key_path = '{form}.key' }}\n"
            "reverse_proxy = [{ upstream = [{ location = 'app1.local:8080' }] }]\n"
        )
    front = Front(programs, peer, text, {"app1.local:8080": f"127.0.0.1:{backend.port}"})
    for form in HEADER:
        trusted = "--cacert", programs.folder / f"{form}.crt"
        assert front.get(f"https://{form}.example.com/", *trusted).backend == "app1"


def key_pair(openssl: str, folder: Path, form: str) -> None:
    key, given = folder / f"{form}.key", folder / f"{form}.given"
    rsa, ec = ["genrsa", "-traditional"], ["ecparam", "-genkey", "-noout", "-name", "prime256v1"]
    name = ["-subj", f"/CN={form}", "-addext", f"subjectAltName=DNS:{form}.example.com"]
    for words in (
        [*(ec if form == "sec1" else rsa), "-out", given],
        ["req", "-x509", "-new", "-key", given, "-out", folder / f"{form}.crt", *name],
        ["pkcs8", "-topk8", "-nocrypt", "-in", given, "-inform", "PEM", "-out", key, "-outform", "PEM"],
    ):
        assert run([openssl, *words]).returncode == 0
    if form != "pkcs8":
        given.rename(key)
    assert HEADER[form] in key.read_text()
