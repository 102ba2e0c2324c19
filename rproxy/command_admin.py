"""`rproxy ban`, `unban`, `bans`, `status` and `reload`: they ask the running proxy over its admin socket."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

from rproxy.command_status import status_text
from rproxy.errors import UserError

CONFIG: Final = "/etc/rproxy/rproxy.toml"
"""The config file that names the socket, unless another is given."""
PATIENCE: Final = 10.0
"""Seconds to wait for the proxy: as long as it waits for us."""
OTHER_VERSION: Final = "the proxy that runs is of another version; --json prints what it says"
MOST_ANSWERED: Final = 64 << 20
"""Bytes of an answer: the status of 100,000 backends has less."""


def add_commands(verbs: Any) -> None:
    """The commands, for the parser of `command`."""
    ban = _add(verbs, "ban", _ban, "close the door to an address or a network")
    ban.add_argument("address", help="192.0.2.7, 2001:db8::/64, 10.0.0.0/8")
    ban.add_argument("--for", dest="time", metavar="TIME", help="how long: 30m, 24h (default: for ever)")
    unban = _add(verbs, "unban", _unban, "let it in again")
    unban.add_argument("address", help="as it was banned")
    _add(verbs, "bans", _bans, "list who is banned")
    _add(verbs, "status", _status, "what the running proxy does: listeners, backends, limits, bans")
    _add(verbs, "reload", _reload, "make the running proxy read its config file again")


def _add(
    verbs: Any, name: str, verb: Callable[[argparse.Namespace], int], words: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=words, description=words.capitalize() + ".")
    parser.add_argument(
        "-c", "--config", metavar="FILE", default=CONFIG, help="the config file (default: %(default)s)"
    )
    parser.add_argument(
        "--socket", metavar="PATH", help="the proxy's admin_socket, instead of asking the file"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(verb=verb)
    return parser


def _ban(options: argparse.Namespace) -> int:
    request: dict[str, Any] = {"ask": "ban", "address": options.address}
    if options.time is not None:
        request["seconds"] = _seconds(options.time)
    return _tell(options, request, lambda answer: f"banned: {answer['banned']}\n")


def _unban(options: argparse.Namespace) -> int:
    def said(answer: dict[str, Any]) -> str:
        return f"{answer['unbanned']} {'may come again' if answer['was_banned'] else 'was not banned'}\n"

    return _tell(options, {"ask": "unban", "address": options.address}, said)


def _bans(options: argparse.Namespace) -> int:
    return _tell(options, {"ask": "bans"}, _bans_as_text)


def _status(options: argparse.Namespace) -> int:
    return _tell(options, {"ask": "status"}, status_text)


def _reload(options: argparse.Namespace) -> int:
    return _tell(options, {"ask": "reload"}, lambda answer: "reloaded\n")


def _tell(options: argparse.Namespace, request: dict[str, Any], text: Callable[[dict[str, Any]], str]) -> int:
    """Ask, and print the answer; the exit status."""
    answer = ask(options.socket or _socket_in(options.config), request)
    if "error" in answer:
        words = json.dumps(answer) if options.json else f"rproxy {request['ask']}: {answer['error']}"
        sys.stderr.write(words + "\n")
        return 1
    sys.stdout.write(json.dumps(answer) + "\n" if options.json else _in_words(answer, text))
    if "warning" in answer and not options.json:
        sys.stderr.write(f"warning: {answer['warning']}\n")
    return 0


def _in_words(answer: dict[str, Any], text: Callable[[dict[str, Any]], str]) -> str:
    try:
        return text(answer)
    except (KeyError, TypeError):
        raise UserError(OTHER_VERSION) from None


def ask(path: str, request: dict[str, Any]) -> dict[str, Any]:
    """The running proxy's answer. Raises `UserError` where none comes."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(PATIENCE)
            line.connect(path)
            line.sendall(json.dumps(request).encode("ascii") + b"\n")
            answer: Any = json.loads(_received(line))
    except (FileNotFoundError, ConnectionRefusedError):
        raise UserError(f"no proxy listens on {path}: does it run, with this admin_socket?") from None
    except PermissionError:
        raise UserError(f"{path}: only the user that the proxy runs as, and root, may ask it") from None
    except OSError as problem:
        raise UserError(f"{path}: {problem.strerror or problem}") from None
    except ValueError:
        raise UserError(f"{path}: the answer is none; is it the admin_socket of an rproxy?") from None
    if not isinstance(answer, dict):
        raise UserError(f"{path}: the answer is none; is it the admin_socket of an rproxy?")
    return answer


def _received(line: socket.socket) -> bytes:
    received = bytearray()
    while data := line.recv(1 << 16):
        received += data
        if len(received) > MOST_ANSWERED:
            raise ValueError("too long")
    return bytes(received)


def _socket_in(file: str) -> str:
    """What the config file calls admin_socket; raises `UserError`, also for its mistakes."""
    if not os.path.exists(file):
        raise UserError(f"{file}: there is no such file; give --config FILE or --socket PATH")
    from rproxy.config.load import load

    found = load(file).admin_socket
    if found is None:
        raise UserError(
            f'{file} has no admin_socket, so nobody can ask the proxy: add admin_socket = "rproxy.sock"'
        )
    return str(found)


def _seconds(text: str) -> float:
    from rproxy.config.values import Wrong, seconds

    is_number = text.isascii() and text.replace(".", "", 1).isdigit()
    try:
        return seconds(float(text) if is_number else text)
    except Wrong as problem:
        raise UserError(f"--for {text}: {problem}") from None


def _bans_as_text(answer: dict[str, Any]) -> str:
    lines = [
        "  ".join(filter(None, (ban["address"], ban["until"] and f"until {ban['until']}", ban["note"])))
        for ban in answer["bans"]
    ]
    if answer["count"] > len(lines):
        lines.append(f"and {answer['count'] - len(lines)} more: see the ban_list")
    return "\n".join(lines or ["nobody is banned"]) + "\n"
