"""The `rproxy` command: `run`, `check`, `status`, `ban` and others. A thin front; the work is elsewhere."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rproxy import described
from rproxy.command_admin import add_commands
from rproxy.command_certs import add_certs
from rproxy.command_l4 import add_options
from rproxy.errors import ConfigError, StartError

DESCRIPTION = "Reverse proxy and protocol router: sends each connection where its server name belongs."
EPILOG = """\
examples:
  rproxy run --config rproxy.toml         serve; Ctrl-C lets connections finish, twice stops at once
  rproxy check rproxy.toml                find every mistake in a config file, without starting anything
  rproxy certs -c rproxy.toml             every certificate: until when, what renews it, what went wrong
  rproxy run --hosts /srv/hosts           serve a hosts folder on the socket that is standard input
  rproxy hostname Bücher.example          the folder that serves a name
  rproxy status -c rproxy.toml            what the running proxy does: backends, limits, bans
  rproxy ban 192.0.2.7 --for 24h          close the door, to connections that are open, too

`twistd rproxy --config FILE` runs it as a daemon, with --uid, --gid, --chroot, --pidfile, --logfile.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status, 0, 1 (a mistake in the file) or 2 (in the command)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["-t"]:  # nginx's habit
        words[0] = "check"
    options = _parser().parse_args(words)
    if options.verb is None:
        _parser().print_help()
        return 2
    status: int = options.verb(options)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "rproxy", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"rproxy {described()}")
    parser.set_defaults(verb=None)
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND")
    _run_options(verbs.add_parser("run", help="serve in the foreground"))
    add_options(
        verbs.add_parser("l4", help="forward TCP for clients with certificates, without a config file")
    )
    check = verbs.add_parser("check", help="find every mistake in a config file (also: -t)")
    check.add_argument("file", nargs="?", help="the config file")
    check.add_argument("-c", "--config", metavar="FILE", help="the same, as an option")
    check.set_defaults(verb=_check)
    add_certs(verbs)
    add_commands(verbs)
    hostname = verbs.add_parser("hostname", help="print the folder name that serves a name")
    hostname.add_argument("name", help="a host name, in any alphabet")
    hostname.add_argument("--hashed", action="store_true", help="for a folder with hashed names")
    hostname.set_defaults(verb=_hostname)
    return parser


def _run_options(run: argparse.ArgumentParser) -> None:
    source = run.add_mutually_exclusive_group(required=True)
    source.add_argument("-c", "--config", metavar="FILE", help="the config file (TOML)")
    source.add_argument("--hosts", metavar="DIR", help="no file: serve a hosts folder on fd 0")
    run.add_argument("--hashed", action="store_true", help="with --hosts: folders are named by hash")
    run.add_argument("-w", "--watch", action="store_true", help="reload when the file changes (the default)")
    run.add_argument("--no-watch", action="store_true", help="only reload on SIGHUP")
    run.set_defaults(verb=_run)


def _run(options: argparse.Namespace) -> int:
    """What `twistd -n rproxy` does, with the same plugin."""
    words = ["twistd", "-n", "--pidfile=", "rproxy"]
    words += ["--config", options.config] if options.config else ["--hosts", options.hosts]
    words += [
        f"--{flag.replace('_', '-')}" for flag in ("hashed", "watch", "no_watch") if getattr(options, flag)
    ]
    sys.argv = words
    from twisted.application import app
    from twisted.scripts._twistd_unix import ServerOptions, UnixApplicationRunner

    # twistd itself ends by the signal that stopped it; a stop that was asked for is a success here.
    try:
        app.run(lambda config: UnixApplicationRunner(config).run(), ServerOptions)
    except StartError as mistake:
        print(mistake, file=sys.__stderr__)  # sys.stderr is the log by now
        return 1
    return 0


def _check(options: argparse.Namespace) -> int:
    file = options.config or options.file
    if file is None:
        print("rproxy check: which file?  rproxy check FILE", file=sys.stderr)
        return 2
    from rproxy.config.load import examine

    try:
        examined = examine(file)
    except ConfigError as mistakes:
        count = len(mistakes.problems)
        print(f"{mistakes}\n\n{count} problem{'s' if count != 1 else ''} in {file}", file=sys.stderr)
        return 1
    for concern in examined.concerns:
        print(f"warning: {concern}", file=sys.stderr)
    print(f"{file}: no problems found")
    return 0


def _hostname(options: argparse.Namespace) -> int:
    from rproxy.wire.hostname import canonical, hashed

    try:
        name = canonical(options.name)
    except ValueError as problem:
        print(f"rproxy hostname: {problem}", file=sys.stderr)
        return 1
    print(hashed(name) if options.hashed else name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
