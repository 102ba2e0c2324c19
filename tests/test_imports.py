"""The house has one staircase: who may import whom, who knows the reactor, and what no module may keep."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import rproxy

HOUSE = Path(rproxy.__file__).parent
STAIRS: tuple[tuple[str, ...], ...] = (
    ("errors", "native", "watcher"),
    ("wire",),
    ("policy",),
    ("interfaces", "deadlines"),
    ("transports", "keypair", "openssl", "wrapping"),
    ("tls", "upstream"),
    ("splice", "parting"),
    ("relay", "exchange", "sites"),
    ("downstream",),
    ("services",),
    ("starttls", "streams", "descriptors", "dialling", "ports"),
    ("reactor",),
    ("endpoints", "config"),
    (
        *("assemble", "assemble_http", "assemble_l4", "assemble_parts", "assemble_tls"),
        *("assemble_admin", "assemble_limits", "assemble_status"),
    ),
    ("tap", "proxy"),
    ("command", "command_admin", "command_certs", "command_l4", "command_status"),
)
"""From the cellar to the roof: a module may import its own floor and those below."""
KNOW_THE_FILE = {
    *("assemble", "assemble_http", "assemble_l4", "assemble_parts", "assemble_tls"),
    *("assemble_admin", "assemble_limits", "assemble_status", "tap", "proxy", "config"),
    *("command", "command_admin", "command_certs"),
}
KNOW_THE_REACTOR = {"tap", "command", "command_l4"}
FORBIDDEN_NAMES = {"util", "utils", "helper", "helpers", "common", "base", "core", "manager", "misc"}


def modules() -> list[Path]:
    return sorted(HOUSE.rglob("*.py"))


def title(path: Path) -> str:
    return ".".join(path.relative_to(HOUSE).with_suffix("").parts)


def room(path: Path) -> str:
    """The part of the house that a file belongs to: a folder, or a module beside the folders."""
    return path.relative_to(HOUSE).with_suffix("").parts[0]


def floor(name: str) -> int:
    found = [number for number, rooms in enumerate(STAIRS) if name in rooms]
    assert found, f"{name} has no place in STAIRS"
    return found[0]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def running(node: ast.AST) -> Iterator[ast.AST]:
    """Every node of a tree that is there when the program runs, also inside functions."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            assert isinstance(child, ast.If)
            for other in child.orelse:
                yield other
                yield from running(other)
        else:
            yield child
            yield from running(child)


def imports(source: str, package: str = "rproxy") -> Iterator[str]:
    """The full name of everything that is imported; `from a import b` is `a.b`."""
    for node in running(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: -(node.level - 1) or None] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{origin}.{each.name}" for each in node.names)


def imports_of(path: Path) -> list[str]:
    """The same for a file of the house."""
    return list(imports(path.read_text(), ".".join(["rproxy", *path.relative_to(HOUSE).parts[:-1]])))


def rooms_of(names: Iterable[str]) -> set[str]:
    """The parts of the house that these names are from."""
    ours = [name.split(".") for name in names]
    rooms = {parts[1] for parts in ours if parts[0] == "rproxy" and len(parts) > 1}
    return rooms - {"__version__", "described"}


every_module = pytest.mark.parametrize("path", modules(), ids=title)


@every_module
def test_imports_only_lead_down(path: Path) -> None:
    if room(path) == "__init__":
        assert rooms_of(imports_of(path)) <= {"tap", "proxy"}
        return
    ours = floor(room(path))
    assert {other for other in rooms_of(imports_of(path)) if floor(other) > ours} == set()


@every_module
def test_nothing_below_assemble_knows_the_config_file(path: Path) -> None:
    if room(path) in KNOW_THE_FILE:
        return
    found = [name for name in imports_of(path) if name.startswith("rproxy.config") or "tomllib" in name]
    assert found == []


def test_only_config_reads_toml() -> None:
    readers = {room(path) for path in modules() if any("tomllib" in name for name in imports_of(path))}
    assert readers == {"config"}


def test_config_stands_on_the_bottom_floors_only() -> None:
    reached = set[str]()
    for path in (HOUSE / "config").glob("*.py"):
        reached |= rooms_of(imports_of(path))
    assert reached <= {"errors", "wire", "policy", "config"}


def test_wire_and_policy_know_no_twisted_and_no_clock() -> None:
    for path in [*(HOUSE / "wire").glob("*.py"), *(HOUSE / "policy").glob("*.py"), HOUSE / "errors.py"]:
        outside = {name.split(".")[0] for name in imports_of(path)}
        assert outside.isdisjoint({"twisted", "zope", "time", "datetime"}), title(path)


@every_module
def test_only_tap_and_command_know_the_global_reactor(path: Path) -> None:
    found = [name for name in imports_of(path) if name == "twisted.internet.reactor"]
    assert not found or room(path) in KNOW_THE_REACTOR


MUTABLE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
MAKERS = {"list", "dict", "set", "defaultdict", "deque", "Counter", "OrderedDict", "bytearray", "WeakSet"}
CHANGES = {
    "append",
    "add",
    "update",
    "pop",
    "popitem",
    "clear",
    "extend",
    "insert",
    "remove",
    "discard",
    "setdefault",
}


def is_mutable(value: ast.expr | None) -> bool:
    called = isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] in MAKERS
    return called or isinstance(value, MUTABLE)


def kept(tree: ast.Module) -> Iterator[str]:
    """The names that a module binds to something that can be changed."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and is_mutable(node.value):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and is_mutable(node.value) and isinstance(node.target, ast.Name):
            yield node.target.id


def changed(tree: ast.Module) -> set[str]:
    """The names whose values are changed in place, or that a function binds anew."""
    found = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            found |= set(node.names)
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES
        ):
            found.add(ast.unparse(node.func.value))
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            found.add(ast.unparse(node.value))
        elif isinstance(node, ast.AugAssign):
            found.add(ast.unparse(node.target))
    return found


@every_module
def test_modules_keep_constants_and_no_state(path: Path) -> None:
    tree = ast.parse(path.read_text())
    names = set(kept(tree)) - {"__all__"}
    assert {name for name in names if name != name.upper()} == set()
    assert names & changed(tree) == set()
    assert not any(isinstance(node, ast.Global) for node in ast.walk(tree))


@every_module
def test_no_file_has_a_name_that_says_nothing(path: Path) -> None:
    assert FORBIDDEN_NAMES.isdisjoint(path.relative_to(HOUSE).with_suffix("").parts)


# -- The rules themselves can fail --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import rproxy.relay", {"relay"}),
        ("from rproxy.services.limits import Limits", {"services"}),
        ("from rproxy import assemble", {"assemble"}),
        ("def f():\n    from rproxy.tap import Options", {"tap"}),
        (
            "class A:\n    async def f(self):\n        if x:\n            import rproxy.config.load",
            {"config"},
        ),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import rproxy.tap", set()),
        ("if TYPE_CHECKING:\n    import rproxy.tap\nelse:\n    import rproxy.relay", {"relay"}),
        ("from rproxy import __version__", set()),
        ("import twisted.internet", set()),
        ("from .hostname import hashed", {"wire"}),
        ("from . import hostname", {"wire"}),
        ("from .. import relay", {"relay"}),
        ("from ..config.load import load", {"config"}),
    ],
)
def test_imports_are_found_wherever_they_stand(source: str, found: set[str]) -> None:
    assert rooms_of(imports(source, "rproxy.wire")) == found


@pytest.mark.parametrize(
    ("source", "names", "seen_changing"),
    [
        ("cache = {}\ncache['a'] = 1", {"cache"}, True),
        ("SEEN: set[int] = set()\ndef f(): SEEN.add(1)", {"SEEN"}, True),
        ("TABLE = {'a': 1}", {"TABLE"}, False),
        ("A = ()\nB = frozenset({1})\nC = 'x'", set(), False),
        ("import collections\nQ = collections.deque()\ndel Q[0]", {"Q"}, True),
        ("N = [1]\ndef f():\n    global N\n    N = [2]", {"N"}, True),
    ],
)
def test_kept_state_is_found(source: str, names: set[str], seen_changing: bool) -> None:
    tree = ast.parse(source)
    assert set(kept(tree)) == names
    assert bool(names & changed(tree)) == seen_changing
