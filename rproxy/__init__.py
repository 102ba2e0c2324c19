"""rproxy: a reverse proxy and protocol router on Twisted.

`makeService` is what a `.tac` file calls; the `twistd` plugin and the `rproxy` command go through it too.
`Proxy` and the objects it is made of are the library; they are loaded with the first use of one.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from twisted.application.service import IService

    from rproxy.proxy import Configuration, ListenerConfig, Proxy, RateLimitConfig, UpstreamConfig

__version__ = "0.1.0.dev0"
__all__ = [
    "Configuration",
    "ListenerConfig",
    "Proxy",
    "RateLimitConfig",
    "UpstreamConfig",
    "__version__",
    "described",
    "makeService",
]


def described() -> str:
    """The version, and whether the data path is compiled: "0.1.0 (compiled)" or "0.1.0 (pure Python)"."""
    spec = find_spec("rproxy.exchange")
    compiled = spec is not None and str(spec.origin).endswith(".so")
    return f"{__version__} ({'compiled' if compiled else 'pure Python'})"


def makeService(config: str | PathLike[str]) -> IService:
    """The whole proxy as one Twisted service, built from the config file at this path.

    Raises `rproxy.errors.ConfigError`, which lists every mistake with its place.
    """
    from rproxy.tap import service_from_file

    return service_from_file(config)


def __getattr__(name: str) -> object:
    """One of the library's objects (PEP 562)."""
    if name in __all__:
        from rproxy import proxy

        return getattr(proxy, name)
    raise AttributeError(f"module 'rproxy' has no attribute {name!r}")
