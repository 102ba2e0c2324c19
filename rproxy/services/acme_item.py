"""What `acme_service` keeps in memory of each certificate that it looks after, and of each authority.

And the few things that it has to say about them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from random import Random

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.services.acme_client import Client
from rproxy.services.acme_problems import AcmeError, ours
from rproxy.services.acme_registry import certificate_id
from rproxy.services.acme_schedule import Life, Record, Standing

log = Logger()


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority as it is configured; `connect` makes its client, given the account's key."""

    directory_url: str
    connect: Callable[[ec.EllipticCurvePrivateKey], Client]
    profile: str | None = None


@dataclass(slots=True)
class Desk:
    """An authority at work."""

    authority: Authority
    client: Client | None = None
    standing: Standing = field(default_factory=Standing)


@dataclass(slots=True)
class Item:
    """A certificate that is wanted; the moments are in epoch seconds."""

    label: str
    names: tuple[str, ...]
    record: Record
    leaf: x509.Certificate | None = None
    life: Life | None = None
    complete: bool = False
    """Whether `leaf` has all the names, and is of an authority that is still configured."""
    desk: Desk | None = None
    """The authority of the attempt under way, or of the last one."""
    charged_at: float = 0.0
    busy: bool = False
    was_tried: bool = False
    order_at: float = 0.0
    next: float = 0.0
    """When to order or to ask, whichever comes first."""

    def use(self, leaf: x509.Certificate, good_for: Sequence[str], rng: Random) -> None:
        """This is the certificate from now on."""
        self.leaf, self.life = leaf, life_of(leaf)
        self.complete = set(self.names) <= set(good_for)
        self.record = self.record.begun(certificate_id(leaf), self.life, rng)

    def urgency(self) -> float:
        """What to sort by: no certificate first, then what ends first."""
        return self.life.ends if self.life is not None else 0.0


def life_of(leaf: x509.Certificate) -> Life:
    """When this certificate is good."""
    return Life(leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp())


def problem_of(failure: Failure, label: str) -> AcmeError:
    """What an order for this label has failed of; a mistake of ours is logged here with its traceback."""
    match failure.value:
        case AcmeError() as problem:
            return problem
        case OSError() as trouble:
            return ours(f"cannot use {trouble.filename}: {trouble.strerror}")
        case ValueError() as trouble:
            return ours(str(trouble))
        case _:
            log.failure("the order for {label} failed", failure, label=label)
            return ours("a mistake in rproxy, see its log")


def digest(settings: str, names: Sequence[str]) -> str:
    """For `Record.settings`."""
    return sha256("\n".join([settings, *sorted(names)]).encode()).hexdigest()[:16]


def moment_of(seconds: float) -> str:
    """Epoch seconds for a person."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
