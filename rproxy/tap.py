"""What `twistd rproxy` and `twist rproxy` call: the options, and the service they make.

The plugin in twisted/plugins names this module; `rproxy.makeService` and the `rproxy` command
come here too, so that there is one way in.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from twisted.application.service import IService
from twisted.logger import Logger
from twisted.python import usage

from rproxy import described
from rproxy.errors import StartError

log = Logger()

RARELY = (20_000, 20, 50)
"""When Python looks for cyclic garbage: connections leave none, and each look costs all that are open."""


class Options(usage.Options):
    """The options of `twistd rproxy`; twistd's own (--uid, --logfile ...) stand before `rproxy`."""

    synopsis = "[--config FILE | --hosts DIR]"
    longdesc = (
        "Reverse proxy and protocol router. Listens where the config file says and sends each connection "
        "where its server name belongs. SIGHUP reloads; SIGTERM lets connections finish first."
    )
    optParameters = [
        ["config", "c", None, "The config file (TOML); config-example.toml documents every key."],
        ["hosts", None, None, "No config file: serve the hosts folder DIR on the listening socket fd 0."],
    ]
    optFlags = [
        ["watch", "w", "Reload when the config file changes. This is the default."],
        ["no-watch", None, "Only reload on SIGHUP."],
        ["hashed", None, "With --hosts: the folders are named by the hash of the name."],
    ]

    def opt_version(self) -> None:
        """Print the version and exit."""
        sys.stdout.write(f"rproxy {described()}\n")
        raise SystemExit(0)

    def postOptions(self) -> None:
        """Twisted's call, when all options are read."""
        if bool(self["config"]) == bool(self["hosts"]):
            raise usage.UsageError("give either --config FILE or --hosts DIR")
        if self["hashed"] and not self["hosts"]:
            raise usage.UsageError("--hashed goes with --hosts; in a config file it is hosts.hashed")


def makeService(options: Options) -> IService:
    """The proxy that these options describe. Raises `ConfigError` or `StartError`, which print as text."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until `Signals` takes it
    _raise_file_limit()
    gc.set_threshold(*RARELY)
    sink = _sink(options)
    if options["hosts"]:
        return _hosts_service(Path(options["hosts"]), bool(options["hashed"]), sink)
    return service_from_file(options["config"], watch=not options["no-watch"], sink=sink)


def service_from_file(path: str | os.PathLike[str], *, watch: bool = True, sink: Any = None) -> IService:
    """The proxy of a config file; its connection log goes to Twisted's log unless there is a `sink`."""
    choose_reactor()
    from twisted.internet import reactor

    from rproxy.assemble import ProxyService
    from rproxy.config.load import load
    from rproxy.services.reload import fingerprint

    file = Path(path).absolute()
    seen = fingerprint(file)
    return ProxyService(reactor, load(path), sink or _to_log, file=file, seen=seen, watch=watch)


def choose_reactor() -> None:
    """Take ours unless somebody, as with `twistd -r`, has chosen; elsewhere than on Linux Twisted chooses."""
    if "twisted.internet.reactor" not in sys.modules and sys.platform == "linux":
        from rproxy.reactor import install

        install()


def _hosts_service(directory: Path, hashed: bool, sink: Any) -> IService:
    """sniproxy's way: a directory, an inherited socket, no file, no limit but descriptors (S-1 to S-5).

    The directory stays relative where it was given so: inside a chroot only that leads to it.
    """
    choose_reactor()
    from twisted.internet import reactor

    from rproxy.assemble import ProxyService
    from rproxy.config.schema import Configuration, Hosts

    if not directory.is_dir():
        raise StartError(f"--hosts: {directory} is not a directory")
    folder = Hosts.model_construct(directory=directory, hashed=hashed)
    most = max(64, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 64) // 2)
    config = Configuration.model_construct(
        listen_tls=("fd:0",), hosts=folder, max_clients=most, idle_timeout=0.0
    )
    return ProxyService(reactor, config, sink, drained=_exit_status)


def _raise_file_limit() -> None:
    """As many file descriptors as this process may have: a relayed connection takes two, four in bulk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _exit_status(clean: bool) -> None:
    """Cut-off connections make the exit status 1 (S-5): Twisted has no way to say so after a stop."""
    if not clean:
        from twisted.internet import reactor

        reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)


def _sink(options: Options) -> Any:
    """Straight to standard output where that is where twistd logs to; else into twistd's log."""
    from rproxy.services.access import to_descriptor

    twistd: Any = options.parent or {}
    elsewhere = any(twistd.get(key) for key in ("logfile", "syslog", "logger", "log-file", "log-format"))
    if twistd.get("nodaemon") and not elsewhere:
        return to_descriptor(1)
    return _to_log


def _to_log(lines: bytes) -> None:
    for line in lines.decode("ascii").splitlines():
        log.info("{line}", line=line)
