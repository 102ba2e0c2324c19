"""What only shows about limits when the parts of a file are held against each other. Called by `checks`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rproxy.config.mistakes import Mistake, Path
from rproxy.config.schema import Configuration
from rproxy.config.values import did_you_mean, quoted

MOST_JAILS: Final = 32
"""Each is asked about every request; nobody has had more than a dozen."""


def limit_mistakes(config: Configuration) -> Iterator[tuple[Mistake, tuple[Path, ...]]]:
    """Each mistake, and the paths that it rests on."""
    if len(config.jail) > MOST_JAILS:
        yield Mistake(("jail",), f"more than {MOST_JAILS} jails", "put several statuses into one match"), ()
    yield from _jails(config)
    for key, app in config.apps.items():
        if app.rate_limit and not (app.tls or app.passthrough):
            at: Path = ("apps", key, "rate_limit")
            message = (
                "rate_limit counts TLS connections, and none come to this app: clear text is for all apps"
            )
            about: tuple[Path, ...] = (at, ("apps", key, "tls"), ("apps", key, "passthrough"))
            yield Mistake(at, message, "use request_limit, or rate_limit above the apps", at_key=True), about


def _jails(config: Configuration) -> Iterator[tuple[Mistake, tuple[Path, ...]]]:
    served = [*config.apps, *config.l4]
    for number, jail in enumerate(config.jail):
        for index, key in enumerate(jail.app):
            if key not in served:
                path: Path = ("jail", number, "app", index)
                hint = did_you_mean(key, served) or "write the <name> of an [apps.<name>]"
                about: tuple[Path, ...] = (path, ("apps", key), ("l4", key))
                yield Mistake(path, f"there is no app {quoted(key)}", hint), about
