"""Where a file is shorter than the models, and the way back. For `apps`, which makes the models, and `load`.

Locations that stand in `reverse_proxy` itself, with nothing beside them that is about an entry, are
one group: the models have one entry for all of them. Elsewhere one value alone stands for a list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rproxy.config.mistakes import Path

PEER_KEYS: Final = frozenset(
    (
        "location",
        "tls",
        "weight",
        "tls_ca_path",
        "tls_server_name",
        "tls_insecure",
        "tls_client_cert_path",
        "tls_client_key_path",
    )
)
"""What is about a peer, and may stand in an entry as if that were the peer: the keys of `Upstream`."""


def arranged(written: object) -> list[tuple[int, ...]]:
    """For each entry of the models where it stands in the `reverse_proxy` of a file: one index, or a group's.

    A group has the place of its first location.
    """
    if not isinstance(written, list | tuple):
        return [(0,)]
    bare = tuple(index for index, entry in enumerate(written) if is_bare(entry))
    rest = [(index,) for index, entry in enumerate(written) if not is_bare(entry)]
    return sorted([*rest, bare]) if bare else [*rest]


def is_bare(entry: object) -> bool:
    """Whether an entry is a location alone, with no other keys than those of a peer."""
    return isinstance(entry, dict) and "location" in entry and entry.keys() <= PEER_KEYS


class Forms:
    """The short forms of one file."""

    def __init__(self, table: dict[str, Any]) -> None:
        self._table = table
        self._arranged: dict[int, list[tuple[int, ...]]] = {}  # else each of many findings reads a long list

    def path(self, path: Path) -> Path:
        """The path in the file for one of the models; what the file has not is left at its end."""
        return self._in(self._table, path)

    def _in(self, node: Any, path: Path) -> Path:
        match node, path:
            case dict(), ("reverse_proxy" as key, int(), *_) if isinstance(node.get(key), list):
                return (key, *self._in_entries(node[key], path[1:]))
            case dict(), (str(key), *_) if key in node:
                return (key, *self._in(node[key], path[1:]))
            case list(), (int(index), *_) if index < len(node):
                return (index, *self._in(node[index], path[1:]))
            case _ if _is_left_out(node, path):
                return self._in(node, path[1:])
        return path

    def _in_entries(self, entries: list[Any], path: Path) -> Path:
        """Below `reverse_proxy`: a peer of a group is an element of the list."""
        if id(entries) not in self._arranged:
            self._arranged[id(entries)] = arranged(entries)
        places = self._arranged[id(entries)][int(path[0])]
        match path[1:]:
            case ("upstream", int(peer), *_) if is_bare(entries[places[0]]):
                return (places[peer], *self._in(entries[places[peer]], path[3:]))
        return (places[0], *self._in(entries[places[0]], path[1:]))


def _is_left_out(node: Any, path: Path) -> bool:
    """Whether the first step is one that only the models have."""
    match path:
        case (int(), *_):
            return not isinstance(node, list)
        case ("upstream", *_):
            return isinstance(node, dict) and "location" in node
    return False
