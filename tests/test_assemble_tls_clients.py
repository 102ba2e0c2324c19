"""Apps that want client certificates, from the file to the route and to what HTTP is told about them."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from OpenSSL import SSL
from twisted.application.service import MultiService
from twisted.internet.task import Clock

from rproxy.assemble_tls import Endings, client_policy
from rproxy.config.load import parse
from rproxy.config.schema import Configuration
from rproxy.deadlines import Deadlines
from rproxy.downstream.terminate import Terminate
from rproxy.errors import StartError
from rproxy.policy.identity import Authorized, ClientPolicy
from rproxy.services.clientca import ClientFiles
from tests.clientcerts import authority, revoking
from tests.tlspeers import Inners, make

ROOT = authority("Root", 1)


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        clock = Clock()
        self.endings = Endings(clock, MultiService(), Deadlines(clock), Random(1))
        make("a.test").write(folder, "server")
        (folder / "ca.crt").write_bytes(ROOT.pem)
        (folder / "ca.crl").write_bytes(revoking(ROOT))

    def config(self, tls: str = "", app: str = "") -> Configuration:
        files = 'tls_cert_path = "server.pem", tls_cert_key_path = "server.key"'
        text = (
            f'listen_port_tls = 443\n[apps.a]\nserver_name = "a.test"\ntls = {{ {files}{tls} }}\n{app}\n'
            'reverse_proxy = { location = "demo:" }\n'
        )
        return parse(text, str(self.folder / "rproxy.toml"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


CA = ', client_ca_cert_path = "ca.crt"'
ALL = CA + ', client_auth = "optional", client_crl_path = "ca.crl", client_cert_header = true'


def test_the_policy_is_what_the_file_says(world: World) -> None:
    folder = world.folder
    app = world.config(CA).apps["a"]
    required = ClientPolicy("a", ClientFiles(folder / "ca.crt"), True, Authorized())
    assert client_policy("a", app) == required
    app = world.config(ALL, 'authorized_groups = "admin"\nauthorized_names = ["x", "y"]').apps["a"]
    files = ClientFiles(folder / "ca.crt", folder / "ca.crl", required=False)
    assert client_policy("a", app) == ClientPolicy(
        "a", files, False, Authorized(("admin",), ("y", "x")), True
    )
    assert client_policy("a", world.config().apps["a"]) is None


@pytest.mark.parametrize(
    ("tls", "mode"),
    [
        ("", SSL.VERIFY_NONE),
        (CA, SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT),
        (ALL, SSL.VERIFY_PEER),
    ],
)
def test_the_route_asks_as_the_policy_says(world: World, tls: str, mode: int) -> None:
    config = world.config(tls)
    ends = world.endings.ending(config, "a", config.apps["a"])
    route = ends.around(Inners())
    assert isinstance(route, Terminate)
    assert route.clients == ends.clients == client_policy("a", config.apps["a"])
    assert route.site.context((b"h2",)).get_verify_mode() == mode


def test_a_reload_that_changes_nothing_keeps_the_site_and_one_that_does_not(world: World) -> None:
    config = world.config(CA)
    first = world.endings.ending(config, "a", config.apps["a"]).site
    assert world.endings.ending(config, "a", world.config(CA).apps["a"]).site is first
    named = world.config(CA, 'authorized_groups = "admin"').apps["a"]
    assert world.endings.ending(config, "a", named).site is first
    assert world.endings.ending(config, "a", world.config(ALL).apps["a"]).site is not first
    assert world.endings.ending(config, "a", world.config().apps["a"]).site is not first


@pytest.mark.parametrize(("name", "content"), [("ca.crt", b"x"), ("ca.crl", b""), ("ca.crl", ROOT.pem)])
def test_files_that_are_wrong_are_a_mistake_of_the_start(world: World, name: str, content: bytes) -> None:
    (world.folder / name).write_bytes(content)
    config = world.config(ALL)
    with pytest.raises(StartError, match=rf"app a: {world.folder / name} (holds no|is empty|has a block)"):
        world.endings.ending(config, "a", config.apps["a"])
