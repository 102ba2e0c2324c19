"""The cookie that keeps a client at one peer."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from http.cookies import SimpleCookie

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from rproxy.policy.sticky import MAX_KNOWN, MOST_TRIED, StickyCookie, Token, remove_cookie, server_id

SECRET = bytes(range(32))
NOW = 784_111_777.0
PEER = server_id("http://10.0.0.5:8080/", 0)


class Counter:
    """Nonces that never repeat, and can be foretold."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, size: int) -> bytes:
        self.calls += 1
        return self.calls.to_bytes(size, "big")


def cookie(**changes: object) -> StickyCookie:
    settings: dict[str, object] = {"path": "/app", "name": "stick", "age": 300}
    return StickyCookie(SECRET, Counter(), **(settings | changes))  # type: ignore[arg-type]


def sent_back(made: bytes) -> bytes:
    """What the client sends for a Set-Cookie."""
    return made.partition(b";")[0]


def test_server_ids_are_those_of_rpxy() -> None:
    """R-LB-3."""
    assert server_id("https://www.rust-lang.org/", 0) == "eGsjoPbactQ1eUJjafYjPT3ekYZQkaqJnHdA_FMSkgM"
    assert server_id("https://www.rust-lang.org/", 1) == "tNVXFJ9eNCT2mFgKbYq35XgH5q93QZtfU8piUiiDxVA"


def test_the_cookie_is_sealed_as_rpxy_seals_it() -> None:
    """R-LB-4, but for the domain, of which there is none."""
    value = sent_back(cookie().set_cookie(PEER, NOW, https=False)).removeprefix(b"stick=")
    sealed = urlsafe_b64decode(value + b"=")
    bound = b"rpxy-sticky-v1\0stick\0\0/app\0"
    opened = AESGCM(SECRET).decrypt(sealed[1:13], sealed[13:], bound)
    assert sealed[0] == 1
    assert opened == int(NOW + 300).to_bytes(8, "big") + PEER.encode()
    assert b"=" not in value
    assert PEER.encode() not in value


def test_the_attributes_keep_it_from_scripts_and_other_sites() -> None:
    made = cookie().set_cookie(PEER, NOW, https=True)
    assert made.partition(b"; ")[2] == (
        b"Expires=Sun, 06 Nov 1994 08:54:37 GMT; Max-Age=300; Path=/app; HttpOnly; SameSite=Lax; Secure"
    )
    assert b"Secure" not in cookie().set_cookie(PEER, NOW, https=False)
    assert b"domain" not in made.lower(), "only the host that was asked gets it back"


def test_a_library_reads_the_set_cookie() -> None:
    read = SimpleCookie(cookie().set_cookie(PEER, NOW, https=True).decode("ascii"))["stick"]
    assert (read["max-age"], read["path"], read["domain"]) == ("300", "/app", "")
    assert read["httponly"] is read["secure"] is True


def test_a_path_with_a_semicolon_makes_no_attribute() -> None:
    made = cookie(path="/a;Domain=org").set_cookie(PEER, NOW, https=False)
    assert b"; Path=/; HttpOnly" in made
    assert b"Domain=org" not in made


def test_the_cookie_comes_back_among_others() -> None:
    made = cookie()
    ours = sent_back(made.set_cookie(PEER, NOW, https=True))
    token = Token(PEER, int(NOW) + 300)
    for lines in (
        [ours],
        [b"a=b; " + ours],
        [b"a=b;" + ours + b" ;c=d"],
        [b"a=b", ours],
        [b"xstick=1; " + ours],
        [ours + b"; " + ours],
        [b"stick=; stick", ours],
    ):
        assert made.read(lines, NOW) == token


def test_of_the_cookies_of_two_routes_each_reads_its_own() -> None:
    """A client sends both below the longer path, and another may have set one of the name."""
    root, app = cookie(path="/"), cookie(path="/app")
    first, second = server_id("http://a/", 0), server_id("http://b/", 1)
    of_root = sent_back(root.set_cookie(first, NOW, https=True))
    of_app = sent_back(app.set_cookie(second, NOW, https=True))
    for lines in ([of_app + b"; " + of_root], [of_root, of_app], [b"stick=x; " + of_root, of_app]):
        for made, server in ((root, first), (app, second)):
            token = made.read(lines, NOW)
            assert token is not None
            assert token.server == server
    late = sent_back(app.set_cookie(first, NOW - 600, https=True))
    assert app.read([late, of_app], NOW) == app.read([of_app], NOW)


def test_so_many_cookies_of_our_name_are_tried_and_no_more() -> None:
    ours = sent_back(cookie().set_cookie(PEER, NOW, https=True))
    others = [b"stick=" + b"A" * 107] * MOST_TRIED
    assert cookie().read([*others[1:], ours], NOW) is not None
    assert cookie().read([*others, ours], NOW) is None


def test_it_is_as_good_as_absent_when_late_or_damaged() -> None:
    """R-LB-4; seen before or not."""
    ours = sent_back(cookie().set_cookie(PEER, NOW, https=True))
    made = cookie()
    for _ in range(2):
        assert made.read([ours], NOW + 299.9) is not None
        assert made.read([ours], NOW + 300) is None
        assert made.read([], NOW) is made.read([b""], NOW) is made.read([b"stick"], NOW) is None
        assert made.read([ours.replace(b"stick", b"STICK")], NOW) is None
        assert made.read([b"x" + ours], NOW) is None
    for at in range(len(b"stick="), len(ours)):
        flipped = b"A" if ours[at : at + 1] != b"A" else b"B"
        if at < len(ours) - 1:  # the last character has bits that mean nothing
            assert made.read([ours[:at] + flipped + ours[at + 1 :]], NOW) is None
        assert made.read([ours[:at]], NOW) is None
        assert made.read([ours[:at] + b"!" + ours[at + 1 :]], NOW) is None
    assert made.read([ours + b"A"], NOW) is None


@pytest.mark.parametrize("change", [{"path": "/"}, {"name": "other"}])
def test_it_is_worth_nothing_on_another_route(change: dict[str, object]) -> None:
    ours = sent_back(cookie().set_cookie(PEER, NOW, https=True))
    renamed = ours.replace(b"stick", str(change.get("name", "stick")).encode())
    assert cookie(**change).read([renamed], NOW) is None


def test_another_version_or_secret_is_not_believed() -> None:
    made = cookie()
    ours = sent_back(made.set_cookie(PEER, NOW, https=True)).removeprefix(b"stick=")
    assert StickyCookie(b"\1" * 32, Counter(), name="stick").read([b"stick=" + ours], NOW) is None
    raw = b"\2" + urlsafe_b64decode(ours + b"=")[1:]
    assert made.read([b"stick=" + urlsafe_b64encode(raw).rstrip(b"=")], NOW) is None


def test_it_is_renewed_once_half_of_its_age_has_passed() -> None:
    made = cookie()
    token = made.read([sent_back(made.set_cookie(PEER, NOW, https=True))], NOW)
    assert token is not None
    assert [made.is_due(token, int(NOW) + later) for later in (0, 149, 150, 151, 299)] == [False] * 3 + [
        True
    ] * 2
    assert cookie(age=100).is_due(token, NOW)


def test_a_client_that_keeps_coming_keeps_its_peer() -> None:
    """R-LB-5."""
    made = cookie()
    held = sent_back(made.set_cookie(PEER, NOW, https=True))
    for later in range(0, 3600, 60):
        token = made.read([held], NOW + later)
        assert token is not None
        assert token.server == PEER
        if made.is_due(token, NOW + later):
            held = sent_back(made.set_cookie(token.server, NOW + later, https=True))


def test_no_two_cookies_have_the_same_nonce() -> None:
    made = cookie()
    assert len({made.set_cookie(PEER, NOW, https=True) for _ in range(50)}) == 50


def test_the_cookies_that_are_remembered_are_bounded() -> None:
    made = cookie()
    for _ in range(MAX_KNOWN + 10):
        assert made.read([sent_back(made.set_cookie(PEER, NOW, https=False))], NOW) is not None
    assert len(made._known) <= MAX_KNOWN


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "a="},
        {"name": "a\r\nb"},
        {"path": "/a b"},
        {"path": "/\n"},
        {"age": 0},
    ],
)
def test_what_no_cookie_can_carry_is_an_error(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="cookie"):
        cookie(**change)


def test_a_short_secret_is_an_error() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        StickyCookie(b"short", Counter())


@pytest.mark.parametrize(
    ("value", "rest"),
    [
        (b"stick=1", None),
        (b"stick=1; stick=2", None),
        (b"stick", None),
        (b" stick=1 ;", None),
        (b"a=b; stick=1", b"a=b"),
        (b"stick=1;a=b", b"a=b"),
        (b"a=b; stick=1; c=d; stick=2", b"a=b; c=d"),
        (b"a=b;c=d", b"a=b;c=d"),
        (b"xstick=1;stick2=2", b"xstick=1;stick2=2"),
        (b"a=stick=1;  b", b"a=stick=1;  b"),
        (b"STICK=1", b"STICK=1"),
        (b"", b""),
    ],
)
def test_our_cookie_stays_here_and_the_others_go_on(value: bytes, rest: bytes | None) -> None:
    assert remove_cookie(value, b"stick") == rest


@given(st.lists(st.sampled_from([b"stick=1", b"a=b", b"c", b" ", b"stick", b"stick==", b"d=stick=1"])))
def test_after_removal_no_cookie_of_the_name_is_left(cookies: list[bytes]) -> None:
    rest = remove_cookie(b";".join(cookies), b"stick") or b""
    names = [part.strip().partition(b"=")[0] for part in rest.split(b";")]
    assert b"stick" not in names
    others = [c for c in cookies if c.strip() and c.strip().partition(b"=")[0] != b"stick"]
    assert [part.strip() for part in rest.split(b";") if part.strip()] == others


@given(st.lists(st.binary(max_size=120).map(lambda b: b"stick=" + b), max_size=3))
def test_no_bytes_of_a_client_raise_anything(lines: list[bytes]) -> None:
    assert cookie().read(lines, NOW) is None
