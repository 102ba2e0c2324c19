"""Names of peers to addresses, without ever blocking the reactor or a start.

One `Names` serves a whole proxy and knows only the names in its configuration. A look-up
answers from memory when it can; an old answer is used while a new one is fetched, and kept
when fetching fails. `upstream.connect` waits for the first answer of a name, with its deadline.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import IHostnameResolver, IReactorTime, IResolutionReceiver
from twisted.logger import Logger
from zope.interface import implementer

log = Logger()

FRESH = 30.0
"""Seconds for which an answer is used without asking again; the system resolver hides the TTL."""
RETRY = 2.0
"""Seconds between two questions while a name does not resolve."""
MOST = 32
"""Addresses kept of one answer: more than any client would try in time."""


class _Name:
    __slots__ = ("addresses", "asked", "asking", "failing", "waiting")

    def __init__(self) -> None:
        self.addresses: tuple[str, ...] = ()
        self.asked = float("-inf")
        self.asking = False
        self.failing = False
        self.waiting: list[Deferred[tuple[str, ...]]] = []


class Names:
    """The addresses of the peers' names, as text, in the resolver's order of preference."""

    def __init__(self, clock: IReactorTime, resolver: IHostnameResolver) -> None:
        self._clock = clock
        self._resolver = resolver
        self._names: dict[str, _Name] = {}

    def known(self, host: str) -> tuple[str, ...]:
        """The last good answer, perhaps empty; asks again in the background when it has aged."""
        name = self._names.setdefault(host, _Name())
        age = self._clock.seconds() - name.asked
        if not name.asking and age >= (FRESH if name.addresses and not name.failing else RETRY):
            self._ask(host, name)
        return name.addresses

    def first(self, host: str) -> Deferred[tuple[str, ...]]:
        """The answer as soon as there is one; fails with `DNSLookupError` when the name does not resolve."""
        answer: Deferred[tuple[str, ...]] = Deferred()
        addresses = self.known(host)
        name = self._names[host]
        if addresses:
            answer.callback(addresses)
        elif name.asking:
            name.waiting.append(answer)
        else:
            answer.errback(DNSLookupError(f"{host} does not resolve"))
        return answer

    def forget(self, keep: set[str]) -> None:
        """Drop every name that the configuration no longer has."""
        for host in self._names.keys() - keep:
            if not self._names[host].asking:
                del self._names[host]

    def _ask(self, host: str, name: _Name) -> None:
        name.asked, name.asking = self._clock.seconds(), True
        self._resolver.resolveHostName(_Answer(self, host, name), host, 0, None, "TCP")

    def answered(self, host: str, name: _Name, addresses: list[str]) -> None:
        """Take one answer of the resolver; called once per question."""
        name.asking = False
        if addresses:
            name.addresses = tuple(dict.fromkeys(addresses))[:MOST]
        self._report(host, name, failing=not addresses)
        waiting, name.waiting = name.waiting, []
        for answer in waiting:
            if name.addresses:
                answer.callback(name.addresses)
            else:
                answer.errback(DNSLookupError(f"{host} does not resolve"))

    def _report(self, host: str, name: _Name, failing: bool) -> None:
        if failing and not name.failing:
            log.warn("{host} does not resolve; using {known}", host=host, known=name.addresses or "nothing")
        if name.failing and not failing:
            log.info("{host} resolves again", host=host)
        name.failing = failing


@implementer(IResolutionReceiver)
class _Answer:
    """Collects what the resolver finds for one question."""

    def __init__(self, names: Names, host: str, name: _Name) -> None:
        self._names, self._host, self._name = names, host, name
        self._found: list[str] = []

    def resolutionBegan(self, resolutionInProgress: Any) -> None:
        pass

    def addressResolved(self, address: Any) -> None:
        self._found.append(address.host)

    def resolutionComplete(self) -> None:
        self._names.answered(self._host, self._name, self._found)
