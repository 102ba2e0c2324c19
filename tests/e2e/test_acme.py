"""Certificates from a real authority (pebble), validated over the port that users are on."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Peer
from tests.e2e.pebble import Pebble, app, await_served, get, is_served
from tests.e2e.programs import NOBODY, RPROXY, TWISTD, Program, Programs, free_port, run, until, write_config
from tests.e2e.streams import all_of, connect
from tests.tlspeers import MemoryClient, trusting_nobody

NO_PROTOCOL = b"\x15\x03\x03\x00\x02\x02\x78"
NO_CERTIFICATE = b"\x15\x03\x03\x00\x02\x02\x50"


def told(proxy: Program) -> list[dict[str, str | None]]:
    """What `rproxy certs` says."""
    config = proxy.config  # type: ignore[attr-defined]
    shown = run([*RPROXY, "certs", "--json", config])
    assert shown.returncode == 0, shown.stderr
    found: list[dict[str, str | None]] = json.loads(shown.stdout)
    return found


def test_two_apps_get_their_certificates_one_of_them_for_two_names(programs: Programs, peer: Peer) -> None:
    port = free_port()
    authority = Pebble(programs, peer("pebble"), port).start()
    apps = app("one") + app("two", "two.example", "www.two.example")
    proxy = programs.rproxy(apps + authority.table(), port=port)
    trusting = authority.root()
    for name in ("one.example", "two.example", "www.two.example"):
        await_served(proxy, port, name, trusting)
    shown, _ = get(port, "www.two.example", trusting)
    assert shown["subjectAltName"] == (("DNS", "two.example"), ("DNS", "www.two.example"))
    first, second = told(proxy)
    assert (first["app"], first["source"], first["problem"]) == ("one", "acme", None)
    assert str(second["issuer"]).startswith("Pebble Intermediate CA")
    registry = programs.folder / "acme_registry"
    modes = {stat.S_IMODE(path.stat().st_mode) for path in registry.rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert {
        stat.S_IMODE(path.stat().st_mode) for path in [registry, *registry.iterdir()] if path.is_dir()
    } == {0o700}


def test_a_restart_serves_from_disk_and_orders_nothing(programs: Programs, peer: Peer) -> None:
    port = free_port()
    authority = Pebble(programs, peer("pebble"), port).start()
    text = app("one") + authority.table()
    proxy = programs.rproxy(text, port=port)
    trusting = authority.root()
    await_served(proxy, port, "one.example", trusting)
    serial = get(port, "one.example", trusting)[0]["serialNumber"]
    proxy.end()
    authority.stop()
    again = programs.rproxy(text, port=port)
    assert get(port, "one.example", trusting)[0]["serialNumber"] == serial
    time.sleep(1.5)  # a look at what is due
    assert "no certificate for" not in again.log


def test_half_of_all_nonces_may_be_refused(programs: Programs, peer: Peer) -> None:
    port = free_port()
    authority = Pebble(programs, peer("pebble"), port, environment={"PEBBLE_WFE_NONCEREJECT": "50"}).start()
    proxy = programs.rproxy(app("one") + app("two") + authority.table(), port=port)
    trusting = authority.root()
    for name in ("one.example", "two.example"):
        await_served(proxy, port, name, trusting)
    assert "no certificate for" not in proxy.log


def test_an_authority_that_wants_to_know_its_customer(programs: Programs, peer: Peer) -> None:
    key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
    port = free_port()
    settings = {"externalAccountBindingRequired": True, "externalAccountMACKeys": {"customer-1": key}}
    authority = Pebble(programs, peer("pebble"), port, **settings).start()
    proxy = programs.rproxy(app("one") + authority.table(), port=port)
    proxy.says("give acme.eab, with the key id and key from your account there")
    assert "externalAccountRequired" in str(told(proxy)[0]["problem"])
    bound = authority.table() + f'eab = {{ kid = "customer-1", hmac_key = "{key}" }}\n'
    proxy.reload(app("one") + bound)
    await_served(proxy, port, "one.example", authority.root())
    assert told(proxy)[0]["problem"] is None


def test_an_authority_that_is_down_at_the_start_is_waited_for(programs: Programs, peer: Peer) -> None:
    port = free_port()
    authority = Pebble(programs, peer("pebble"), port)
    local = app("local", more="tls = { self_signed = true }")
    proxy = programs.rproxy(app("one") + local + authority.table(), port=port)
    assert is_served(port, "local.example", trusting_nobody("http/1.1")), "the others do not wait"
    proxy.says("cannot connect")
    client = MemoryClient("one.example", "http/1.1")
    assert _said(port, client.out()) == NO_CERTIFICATE
    assert proxy.log.count("no certificate for one.example") <= 2, "not a flood"
    authority.start()
    await_served(proxy, port, "one.example", authority.root(), seconds=40)


def test_a_wrong_directory_is_told_in_words_and_mended_by_a_reload(programs: Programs, peer: Peer) -> None:
    port = free_port()
    authority = Pebble(programs, peer("pebble"), port).start()
    wrong = authority.table(dir_url=authority.directory.replace("/dir", "/nothing-here"))
    proxy = programs.rproxy(app("one") + wrong, port=port)
    proxy.says("/nothing-here is not an ACME directory (HTTP 404); check acme.dir_url")
    assert "check acme.dir_url" in str(told(proxy)[0]["problem"])
    proxy.reload(app("one") + authority.table())
    await_served(proxy, port, "one.example", authority.root())


def test_an_authority_that_is_not_trusted_is_told_what_to_do(programs: Programs, peer: Peer) -> None:
    port = free_port()
    authority = Pebble(programs, peer("pebble"), port).start()
    table = "".join(line for line in authority.table().splitlines(True) if not line.startswith("ca_file"))
    proxy = programs.rproxy(app("one") + table, port=port)
    proxy.says("acme.ca_file names its root")


def test_an_authority_that_has_lost_the_account_gets_it_again(programs: Programs, peer: Peer) -> None:
    port = free_port()
    authority = Pebble(programs, peer("pebble"), port).start()
    proxy = programs.rproxy(app("one") + authority.table(), port=port)
    old = authority.root()
    await_served(proxy, port, "one.example", old)
    authority.stop()
    authority.start()
    proxy.reload(app("one") + app("two") + authority.table())
    await_served(proxy, port, "two.example", authority.root())
    assert is_served(port, "one.example", old), "nobody has taken the old certificate away"
    assert "accountDoesNotExist" not in proxy.log


def test_a_name_that_leads_elsewhere_is_tried_once_and_the_old_certificate_stays(
    programs: Programs, peer: Peer
) -> None:
    port, elsewhere = free_port(), free_port()
    authority = Pebble(programs, peer("pebble"), port).start()
    proxy = programs.rproxy(app("one") + authority.table(), port=port)
    trusting = authority.root()
    await_served(proxy, port, "one.example", trusting)
    astray = Pebble(programs, peer("pebble"), elsewhere).start()
    more = app("one", "one.example", "new.example") + astray.table()
    proxy.reload(more)
    proxy.says("it must reach this proxy's TLS port on port 443 of the name")
    time.sleep(3)
    assert proxy.log.count("no certificate for one.example") == 1
    assert is_served(port, "one.example", trusting)
    assert "Failed to connect to 127.0.0.1" in str(told(proxy)[0]["problem"])
    budget = json.loads((programs.folder / "acme_registry" / "budget.json").read_text())
    assert {name: len(times) for name, times in budget.items()} == {"one.example": 1, "new.example": 1}


def test_a_backend_behind_passthrough_has_its_own_acme(programs: Programs, peer: Peer) -> None:
    port, behind = free_port(), free_port()
    authority = Pebble(programs, peer("pebble"), port).start()
    passing = f"""
[apps.behind]
server_name = "behind.example"
passthrough = {{ upstream = [{{ location = "127.0.0.1:{behind}" }}] }}
"""
    front = programs.rproxy(app("one") + passing + authority.table(registry_path="front"), port=port)
    backend = programs.rproxy(app("behind") + authority.table(registry_path="back"), port=behind)
    trusting = authority.root()
    await_served(backend, port, "behind.example", trusting)
    await_served(front, port, "one.example", trusting)


def test_acme_tls_1_is_only_answered_while_an_order_waits_for_it(programs: Programs, peer: Peer) -> None:
    port = free_port()
    authority = Pebble(programs, peer("pebble"), port).start()
    proxy = programs.rproxy(app("one") + authority.table(), port=port)
    await_served(proxy, port, "one.example", authority.root())
    assert _said(port, MemoryClient("one.example", "acme-tls/1").out()) == NO_PROTOCOL
    assert _said(port, MemoryClient("other.example", "acme-tls/1").out())[-1:] == b"\x70"
    mixed = trusting_nobody("acme-tls/1", "http/1.1")
    assert is_served(port, "one.example", mixed), "who offers more than that is a user"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_does_not_wait_for_an_order(programs: Programs, peer: Peer, number: int) -> None:
    port = free_port()
    authority = Pebble(programs, peer("pebble"), port, environment={"PEBBLE_VA_NOSLEEP": "0"}).start()
    proxy = programs.rproxy(app("one") + authority.table(), port=port)
    until(lambda: "Added order" in authority.log, "an order")
    began = time.monotonic()
    proxy.signal(number)
    assert proxy.ended() == 0
    assert time.monotonic() - began < 2


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_who_has_given_up_root_owns_the_registry(short_path: Path, programs: Programs, peer: Peer) -> None:
    # The folder is made before the programs, so that they have ended when it is removed.
    port = free_port()
    authority = Pebble(programs, peer("pebble"), port).start()
    root, registry, config = short_path / "root.pem", short_path / "registry", short_path / "rproxy.toml"
    root.write_bytes(authority.api.certificate.read_bytes())
    registry.mkdir()
    os.chown(registry, NOBODY, NOBODY)
    write_config(config, port, app("one") + authority.table(ca_file=str(root), registry_path=str(registry)))
    words = [*TWISTD, "-n", "--pidfile=", f"--uid={NOBODY}", f"--gid={NOBODY}", "rproxy", "--config", config]
    program = programs.start(words, "dropped")
    await_served(program, port, "one.example", authority.root())
    assert {path.stat().st_uid for path in registry.rglob("*")} == {NOBODY}


def _said(port: int, hello: bytes) -> bytes:
    with connect(port) as client:
        client.sendall(hello)
        return all_of(client)
