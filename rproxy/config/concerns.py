"""What is allowed in a file and yet hardly meant. Called by `load`; paths are the models', as in `checks`."""

from __future__ import annotations

from collections.abc import Iterator

from rproxy.config.mistakes import Mistake, Path
from rproxy.config.schema import Configuration


def concerns(config: Configuration) -> Iterator[Mistake]:
    """What the person who wrote a file should know about it; `config` as it is before it is settled."""
    if config.listen_port is None and not config.listen:
        yield from _nothing_to_redirect(config)


def _nothing_to_redirect(config: Configuration) -> Iterator[Mistake]:
    """rpxy's introduction asks for a redirection where only the TLS port is open, so that has to load."""
    message = "nothing listens in clear text, so nothing is redirected"
    for key, app in config.apps.items():
        own: Path = ("apps", key, "https_redirection")
        old: Path = ("apps", key, "tls", "https_redirection")
        asked = {own: app.https_redirection, old: app.tls is not None and app.tls.https_redirection}
        for path in (path for path, wanted in asked.items() if wanted):
            yield Mistake(path, message, "add listen_port = 80, or remove it", at_key=True)
