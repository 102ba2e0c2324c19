"""Limits, lists and jails are read as written, and refused with a sentence where they make no sense."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import rproxy
from rproxy.config.limits import LONGEST_SOCKET, REASONS, Rate
from rproxy.config.load import parse
from rproxy.config.schema import Configuration
from rproxy.downstream import handshake
from rproxy.errors import Banned, ConfigError, Refusal
from rproxy.policy.bucket import Allowance
from rproxy.policy.networks import LOOPBACK

SITE = """
[apps.site]
server_name = "a.example"
tls.self_signed = true
reverse_proxy = { location = "a" }
"""


def config(text: str, site: str = "") -> Configuration:
    return parse(f"listen_port_tls = 443\n{text}\n{SITE}\n{site}", "/etc/rproxy/x.toml")


def message(text: str, site: str = "") -> str:
    """The one mistake in it."""
    with pytest.raises(ConfigError) as caught:
        config(text, site)
    (problem,) = caught.value.problems
    return f"{problem.key}: {problem.message}"


def test_a_rate_limit_is_a_bucket_and_a_cap() -> None:
    found = config('rate_limit = { capacity = 20, fill_rate = "1s", max_connections = 5 }').rate_limit
    assert found is not None
    assert found.allowance == Allowance(20, 1.0, 5)


@pytest.mark.parametrize(
    ("text", "allowance"),
    [
        ("max_connections = 5", Allowance(0, 1.0, 5)),
        ('capacity = 3, fill_rate = "100ms"', Allowance(3, 0.1, 0)),
        ("capacity = 3, fill_rate = 60", Allowance(3, 60.0, 0)),
    ],
)
def test_either_alone_will_do(text: str, allowance: Allowance) -> None:
    found = config(f"rate_limit = {{ {text} }}").rate_limit
    assert found is not None
    assert found.allowance == allowance


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("rate_limit = {}", "rate_limit: this limits nothing"),
        ("rate_limit = { capacity = 3 }", "rate_limit: capacity and fill_rate only work together"),
        ("rate_limit = { fill_rate = 3 }", "rate_limit: capacity and fill_rate only work together"),
        (
            "rate_limit = { capacity = 0, fill_rate = 1 }",
            "rate_limit.capacity: expected a whole number, 1 or more, got 0",
        ),
        (
            'rate_limit = { capacity = 1, fill_rate = "0.0001ms" }',
            'rate_limit.fill_rate: expected a microsecond or more, got the text "0.0001ms"',
        ),
        (
            'rate_limit = { capacity = 100000, fill_rate = "1h" }',
            "rate_limit: an empty bucket would take more than a year to fill",
        ),
        ("allow = []", "allow: expected a list with something in it, got an empty one"),
        (
            'deny = "10.0.0.1/8"',
            "deny: '10.0.0.1/8' has bits set behind its prefix: write 10.0.0.0/8.",
        ),
        (
            f"admin_socket = '/{'a' * LONGEST_SOCKET}'",
            f'admin_socket: the path of a socket has at most {LONGEST_SOCKET} bytes, "/{"a" * 59}…" has more',
        ),
    ],
)
def test_what_limits_nothing_or_cannot_be_is_refused(text: str, wrong: str) -> None:
    assert message(text) == wrong


def test_lists_take_networks_clouds_and_unix() -> None:
    found = config('allow = ["10.0.0.0/8", "cloudflare", "unix"]\ndeny = "2001:db8::1"')
    assert (found.allow, found.deny) == (("10.0.0.0/8", "cloudflare", "unix"), ("2001:db8::1",))


def test_files_start_from_the_folder_of_the_file() -> None:
    found = config('ban_list = "bans.txt"\nadmin_socket = "rproxy.sock"')
    assert found.ban_list == Path("/etc/rproxy/bans.txt")
    assert found.admin_socket == Path("/etc/rproxy/rproxy.sock")


def test_apps_and_entries_limit_requests() -> None:
    limit = 'request_limit = { capacity = 5, fill_rate = "2s" }'
    found = parse(
        f"""
        listen_port_tls = 443
        [apps.site]
        server_name = "a.example"
        tls.self_signed = true
        allow = "10.0.0.0/8"
        deny = ["10.0.0.1"]
        rate_limit.max_connections = 2
        {limit}
        [[apps.site.reverse_proxy]]
        location = "a"
        {limit}
        """,
        "x.toml",
    ).apps["site"]
    assert (found.allow, found.deny) == (("10.0.0.0/8",), ("10.0.0.1",))
    assert found.rate_limit is not None
    for each in (found.request_limit, found.reverse_proxy[0].request_limit):
        assert each is not None
        assert each.allowance == Allowance(5, 2.0, 0)


JAIL = "[[jail]]\nmatch = %s\nrate = '%s'\nban = '1h'\n"


def jails(text: str) -> Configuration:
    return parse(f"listen_port_tls = 443\n{SITE}\n{text}", "x.toml")


@pytest.mark.parametrize(
    ("written", "statuses", "reasons"),
    [
        ("'status 401,403'", {401, 403}, set()),
        ("'status 401, 403'", {401, 403}, set()),
        ("'reason not_tls,unknown_name'", set(), {"not_tls", "unknown_name"}),
        ("['status 404', 'status 400', 'reason no_route']", {400, 404}, {"no_route"}),
    ],
)
def test_a_jail_matches_statuses_and_reasons(written: str, statuses: set[int], reasons: set[str]) -> None:
    (jail,) = jails(JAIL % (written, "10/1m")).jail
    assert jail.match == (frozenset(statuses), frozenset(reasons))
    assert (jail.rate, jail.ban, jail.app, jail.ignore) == (Rate(10, 60.0), 3600.0, (), LOOPBACK)
    assert jail.allowance == Allowance(10, 6.0, 0)


@pytest.mark.parametrize(("written", "rate"), [("3/h", Rate(3, 3600.0)), ("5/30s", Rate(5, 30.0))])
def test_a_rate_is_a_number_in_a_time(written: str, rate: Rate) -> None:
    assert jails(JAIL % ("'status 401'", written)).jail[0].rate == rate


@pytest.mark.parametrize(
    ("match", "rate", "wrong"),
    [
        ("'401'", "1/m", 'match: expected "status 401,403" or "reason not_tls,unknown_name", got "401"'),
        ("'status 4xx'", "1/m", 'got "status 4xx"'),
        ("'status'", "1/m", 'got "status"'),
        ("'reason '", "1/m", 'got "reason "'),
        ("'reason unknown_nam'", "1/m", 'match: "unknown_nam" is no reason that the log has'),
        ("'reason banned'", "1/m", 'match: "banned" is no reason that the log has'),
        ("[]", "1/m", "match: expected a list with something in it, got an empty one"),
        ("'status 401'", "10", 'rate: expected a number and a time such as "10/1m", got "10"'),
        ("'status 401'", "0/1m", 'got "0/1m"'),
        ("'status 401'", "1/0s", 'got "1/0s"'),
        ("'status 401'", "999999/1ms", "rate: more than a million a second is no limit"),
        ("'status 401'", "1/fortnight", 'got the text "1fortnight"'),
    ],
)
def test_what_would_never_match_is_refused(match: str, rate: str, wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        jails(JAIL % (match, rate))
    assert wrong in f"{caught.value.problems[0].key}: {caught.value.problems[0].message}"


def test_a_jail_may_be_for_some_apps_and_ignore_nobody() -> None:
    (jail,) = jails(JAIL % ("'status 401'", "1/m") + "app = 'site'\nignore = []").jail
    assert (jail.app, jail.ignore) == (("site",), ())


def test_reasons_are_all_that_the_code_has() -> None:
    for module in pkgutil.walk_packages(rproxy.__path__, "rproxy."):
        if not module.name.endswith(("__main__", ".reactor")):
            importlib.import_module(module.name)
    raised = {kind.reason for kind in _all(Refusal) if kind.__module__.startswith("rproxy.")}
    assert raised - {Refusal.reason, Banned.reason} <= set(REASONS)
    assert len(set(REASONS)) == len(REASONS)
    assert {*handshake.TROUBLES.values(), *handshake.FAILURES.values()} <= set(REASONS)
    assert {handshake.BAD_CERTIFICATE, handshake.HANDSHAKE_FAILED} <= set(REASONS)


def _all(kind: type[Refusal]) -> set[type[Refusal]]:
    return {kind}.union(*(_all(each) for each in kind.__subclasses__()))


# -- Reasons that stand in the code as texts ----------------------------------------------------------------


def told(sources: Iterable[str]) -> set[str]:
    """Patterns of every text that becomes a `reason`: assigned to one, or given for a parameter so called."""
    trees = [ast.parse(source) for source in sources]
    places = {name: place for tree in trees for name, place in _takers(tree)}
    found = (value for tree in trees for node in ast.walk(tree) for value in _values(node, places))
    return {pattern for value in found for pattern in _patterns(value)}


def _takers(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Functions with a text called `reason` among their parameters, and where it stands in a call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            names = [each.arg for each in node.args.args if each.arg != "self"]
            for each in node.args.args:
                if each.arg == "reason" and each.annotation and ast.unparse(each.annotation) == "str":
                    yield node.name, names.index("reason")


def _values(node: ast.AST, places: dict[str, int]) -> Iterator[ast.expr]:
    if isinstance(node, ast.Assign):
        for target in node.targets:
            several = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
            pairs = zip(target.elts, node.value.elts, strict=True) if several else [(target, node.value)]  # type: ignore[attr-defined]
            yield from (value for to, value in pairs if _name(to) in ("reason", "_reason"))
    elif isinstance(node, ast.Call):
        yield from (each.value for each in node.keywords if each.arg == "reason")
        place = places.get(_name(node.func))
        if place is not None and place < len(node.args):
            yield node.args[place]
    elif isinstance(node, ast.FunctionDef) and node.name in ("_why", "reason_of"):
        yield from (each.value for each in ast.walk(node) if isinstance(each, ast.Return) and each.value)


def _name(node: ast.expr) -> str:
    return getattr(node, "attr", getattr(node, "id", ""))


def _patterns(value: ast.expr) -> Iterator[str]:
    match value:
        case ast.Constant(value=str(text)) if text:
            yield re.escape(text)
        case ast.JoinedStr(values=parts):
            yield "".join(
                re.escape(part.value) if isinstance(part, ast.Constant) else "[a-z]+" for part in parts
            )
        case ast.BoolOp(values=several):
            yield from (pattern for each in several for pattern in _patterns(each))
        case ast.IfExp(body=one, orelse=other):
            yield from (pattern for each in (one, other) for pattern in _patterns(each))


def unknown(patterns: set[str]) -> set[str]:
    return {each for each in patterns if not any(re.fullmatch(each, reason) for reason in REASONS)}


def test_reasons_that_are_written_as_texts_are_known_too() -> None:
    house = Path(rproxy.__file__).parent
    rooms = [
        path for folder in ("downstream", "services", "upstream") for path in (house / folder).glob("*.py")
    ]
    found = told(path.read_text() for path in [*rooms, *house.glob("*.py")])
    assert {"client_left", "idle", "closed", "[a-z]+_reset"} <= found, "or nothing is found at all"
    assert unknown(found) <= {Banned.reason}, "who is banned already needs no other ban"


@pytest.mark.parametrize(
    "code",
    [
        "self.reason = 'new'",
        "self._reason = self._reason or 'new'",
        "self.status, self.reason = 499, 'new'",
        "journal.ended(arrival, reason='new')",
        "def _abort(self, reason: str): ...\nself._abort('new')",
        "def _why(reason):\n    return 'closed' if reason else 'new'",
        "def tell(app: str, reason: str): ...\ntell('a', f'new_{x}')",
    ],
)
def test_a_new_reason_would_be_noticed(code: str) -> None:
    assert {each.partition("_")[0] for each in unknown(told([code]))} == {"new"}
