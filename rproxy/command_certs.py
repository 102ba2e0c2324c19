"""`rproxy certs`: asks the running proxy what it serves; where none answers, looks at the files on disk."""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from typing import Any

from rproxy.command_admin import CONFIG, OTHER_VERSION, ask
from rproxy.errors import ConfigError, UserError

WORDS = "list all certificates, with their next renewal and last problem"


def add_certs(verbs: Any) -> None:
    """The command, for the parser of `command`."""
    certs: argparse.ArgumentParser = verbs.add_parser(
        "certs", help=WORDS, description=f"{WORDS.capitalize()}."
    )
    certs.add_argument("file", nargs="?", help=f"the config file (default: {CONFIG})")
    certs.add_argument("-c", "--config", metavar="FILE", help="the same, as an option")
    certs.add_argument(
        "--socket", metavar="PATH", help="the proxy's admin_socket, instead of asking the file for it"
    )
    certs.add_argument("--files", action="store_true", help="look at the files, and do not ask the proxy")
    certs.add_argument("--json", action="store_true", help="for programs")
    certs.set_defaults(verb=_certs)


def _certs(options: argparse.Namespace) -> int:
    if options.socket is not None:
        answer = ask(options.socket, {"ask": "certs"})
        if "error" in answer:
            sys.stderr.write(
                (json.dumps(answer) if options.json else f"rproxy certs: {answer['error']}") + "\n"
            )
            return 1
        return _print(answer.get("certificates"), options.json)
    file = options.config or options.file or (CONFIG if os.path.exists(CONFIG) else None)
    if file is None:
        sys.stderr.write("rproxy certs: which file?  rproxy certs FILE\n")
        return 2
    try:
        return _print(_found(file, options.files), options.json)
    except ConfigError as mistakes:
        sys.stderr.write(f"{mistakes}\n")
        return 1


def _found(file: str, only_files: bool) -> Any:
    """As the proxy of this config file says, or as its files do. Raises `ConfigError`."""
    from rproxy.config.load import load

    config = load(file)
    if config.admin_socket is not None and not only_files:
        try:
            answer = ask(str(config.admin_socket), {"ask": "certs"})
        except UserError as problem:
            answer = {"error": str(problem)}
        if "error" not in answer:
            return answer.get("certificates")
        sys.stderr.write(f"the proxy was not asked, these are the files: {answer['error']}\n")
    return _on_disk(config)


def _on_disk(config: Any) -> list[dict[str, Any]]:
    from rproxy.assemble import tls_names
    from rproxy.assemble_tls import certificate_places
    from rproxy.services.certreport import as_objects, report

    now = datetime.now(UTC)
    return as_objects(report(certificate_places(config, tls_names(config)), now), now)


def _print(found: Any, as_json: bool) -> int:
    from rproxy.services.certreport import as_text, json_of, rows_of

    if as_json:
        sys.stdout.write(json_of(found))
        return 0
    try:
        sys.stdout.write(as_text(rows_of(found), datetime.now(UTC)) or "no app has a certificate\n")
    except (KeyError, TypeError):
        raise UserError(OTHER_VERSION) from None
    return 0
