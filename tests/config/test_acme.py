"""`[acme]`: what it may say, what is refused, and that a file of rpxy's needs no change."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from rproxy.config.acme import Acme, provable
from rproxy.config.load import parse
from rproxy.config.values import Wrong
from rproxy.errors import ConfigError
from rproxy.services.acme_order import KEYS

TLS = "listen_port_tls = 443\n"
APP = '[apps.a]\nserver_name = {}\ntls = {{ acme = true }}\nreverse_proxy = {{ location = "h" }}\n'
HMAC = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"


def app(*names):
    return APP.format(list(names or ["a.example"]))


def problems(text):
    with pytest.raises(ConfigError) as caught:
        parse(text, "x.toml")
    return caught.value.problems


def test_an_email_is_enough():
    acme = parse(TLS + app() + '[acme]\nemail = "a@example.org"', "/etc/x.toml").acme
    assert acme.dir_url == "https://acme-v02.api.letsencrypt.org/directory"
    assert acme.registry_path == Path("/etc/acme_registry")
    assert acme.key_type == "p256"
    (only,) = acme.authorities
    assert (only.dir_url, only.eab, only.ca_file, only.profile) == (acme.dir_url, None, None, None)


def test_rpxys_table_is_the_same_and_keeps_its_case():
    text = '[experimental.acme]\nemail = "a@b"\ndir_url = "https://CA.example/Dir"\nregistry_path = "./Reg"'
    acme = parse(TLS + app() + text, "/etc/x.toml").acme
    assert (acme.dir_url, acme.registry_path) == ("https://CA.example/Dir", Path("/etc/Reg"))


def test_everything_can_be_said():
    text = f"""
[acme]
email = "a@example.org"
dir_url = "https://one.example/dir"
ca_file = "root.pem"
profile = "shortlived"
key_type = "rsa2048"
eab = {{ kid = "me", hmac_key = "{HMAC}" }}
[[acme.fallback]]
dir_url = "https://two.example/dir"
eab = {{ kid = "you", hmac_key = "{HMAC}" }}
[[acme.fallback]]
dir_url = "https://three.example/dir"
"""
    acme = parse(TLS + app() + text, "/etc/x.toml").acme
    assert [each.dir_url for each in acme.authorities] == [
        f"https://{number}.example/dir" for number in ("one", "two", "three")
    ]
    assert acme.authorities[0].ca_file == Path("/etc/root.pem")
    assert acme.authorities[0].eab.kid == "me"
    assert acme.authorities[1].eab.kid == "you"
    assert acme.authorities[2].eab is None


@pytest.mark.parametrize("kind", KEYS)
def test_every_kind_of_key_that_can_be_made_can_be_asked_for(kind):
    assert Acme.model_validate({"email": "a@b", "key_type": kind}, context={}).key_type == kind


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dir_url", "http://ca.example/dir"),
        ("dir_url", "ca.example/dir"),
        ("dir_url", "https://"),
        ("dir_url", "https://u:p@ca.example/dir"),
        ("dir_url", "https://ca.example:0/dir"),
        ("dir_url", "https://ca.example:99999/dir"),
        ("dir_url", "https://[::/dir"),
        ("dir_url", "https://ca.example/a b"),
        ("dir_url", "https://cä.example/"),
        ("dir_url", "https://ca.example/#x"),
        ("dir_url", "https://ca.example/" + "x" * 600),
        ("dir_url", 5),
        ("email", ""),
        ("email", "mailto:a@b"),
        ("email", "a@b, c@d"),
        ("email", "a b@c"),
        ("email", "ä@b"),
        ("key_type", "ed25519"),
        ("key_type", "P256"),
        ("fallback", []),
        ("fallback", {"dir_url": "https://x/"}),
        ("eab", "me"),
        ("profile", ""),
    ],
)
def test_what_cannot_be_used_is_refused(key, value):
    with pytest.raises(ValidationError):
        Acme.model_validate({"email": "a@b", key: value}, context={})


@pytest.mark.parametrize("key", ["short", "not base64url!" * 3, "a+b/" * 9, "a", ""])
def test_a_binding_that_cannot_be_is_refused_and_not_repeated(key):
    with pytest.raises(ValidationError) as caught:
        Acme.model_validate({"email": "a@b", "eab": {"kid": "me", "hmac_key": key}}, context={})
    (problem,) = caught.value.errors(include_input=False)
    assert len(key) < 2 or key not in problem["msg"]


def test_padding_is_as_good_as_none():
    acme = Acme.model_validate({"email": "a@b", "eab": {"kid": "k", "hmac_key": "A" * 22 + "=="}}, context={})
    assert acme.eab.hmac_key == "A" * 22


def test_an_authority_is_named_once():
    text = '[acme]\nemail = "a@b"\ndir_url = "https://x/d"\nfallback = [{ dir_url = "https://x/d" }]'
    (problem,) = problems(TLS + app() + text)
    assert "is asked already" in problem.message


def test_a_wildcard_cannot_be_proven_and_the_place_is_told():
    (problem,) = problems(TLS + app("a.example", "*.a.example") + '[acme]\nemail = "a@b"')
    assert problem.key == "apps.a.tls"
    assert problem.message.startswith('no certificate for "*.a.example": ACME proves wildcards by DNS only')
    assert problem.line == 4


def test_a_hundred_names_are_the_most():
    provable(tuple(f"n{i}.example" for i in range(100)))
    with pytest.raises(Wrong, match="101 names are too many"):
        provable(tuple(f"n{i}.example" for i in range(101)))


def test_wildcards_with_files_are_nobodys_business():
    text = app("*.a.example").replace("acme = true", 'tls_cert_path = "c", tls_cert_key_path = "k"')
    assert parse(TLS + text, "x.toml").apps["a"].server_name == ("*.a.example",)


def test_an_app_needs_the_table():
    (problem,) = problems(TLS + app())
    assert "needs a table [acme]" in problem.message
