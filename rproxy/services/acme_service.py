"""Certificates that renew themselves: txacme's issuing service with our protocol, schedule and store.

Made by `assemble_tls` for a configuration with ACME, and only then imported, for it imports
txacme. What it keeps of `AcmeIssuingService`: the timer, `issue_cert` with one order per
certificate at a time, `when_certs_valid`, the panic call. What it replaces is what txacme does in
the first version of the protocol. Nothing waits for it: ports are open before it begins, an old
certificate is served until a new one is on disk, and a failure ends nothing but an attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from random import Random
from typing import Any, Final

import pem
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, fail, succeed
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from txacme.service import AcmeIssuingService  # type: ignore[import-untyped]

from rproxy.services.acme_answers import renewal_id
from rproxy.services.acme_client import Client
from rproxy.services.acme_item import Authority, Desk, Item, digest, life_of, moment_of, problem_of
from rproxy.services.acme_order import KEYS, CertificateKey, Wish, obtain
from rproxy.services.acme_problems import AcmeError, Kind, ours
from rproxy.services.acme_registry import InThread, Registry
from rproxy.services.acme_schedule import Budget, Standing, Window, choose
from rproxy.services.acme_store import CertificateStore

log = Logger()

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at what is due; a look compares one number per certificate."""
AT_ONCE: Final = 4
"""Orders at a time: a thousand names that are due are no reason to flood an authority, or the reactor."""
NEVER: Final = float("inf")


class IssuingService(AcmeIssuingService):
    """Gets and renews the certificates that `want` names. `now` gives epoch seconds.

    `settings` is what an attempt depends on besides its names; a refusal is forgotten when it changes.
    `panic` is called, besides a line in the log, when an attempt fails and there is no certificate, or soon
    will be none.
    """

    ready: bool
    _waiting: list[Deferred[None]]

    def __init__(
        self,
        clock: Any,
        now: Callable[[], float],
        rng: Random,
        registry: Registry,
        in_thread: InThread,
        responders: Sequence[Any],
        authorities: Sequence[Authority],
        changed: Callable[[str], None],
        *,
        email: str,
        key_type: str = "p256",
        settings: str = "",
        panic: Callable[[Failure, str], object] | None = None,
    ) -> None:
        self._desks = [Desk(authority) for authority in authorities]
        super().__init__(
            cert_store=CertificateStore(registry, changed),
            client_creator=lambda: ensureDeferred(self._client(self._desks[0])),
            clock=clock,
            responders=list(responders),
            email=email,
            check_interval=timedelta(seconds=LOOK_EVERY),
            panic=panic or (lambda failure, label: None),
            generate_key=KEYS[key_type],
        )
        self._wall, self._rng, self._registry, self._in_thread = now, rng, registry, in_thread
        self._changed, self._settings = changed, settings
        self._wanted: dict[str, tuple[str, ...]] = {}
        self._items: dict[str, Item] = {}
        self._budget = Budget()
        self._asking: set[Deferred[None]] = set()
        self._soon: Any = None

    def want(self, wanted: Mapping[str, tuple[str, ...]]) -> None:
        """Names by label, from now on; called at the start and after each reload."""
        self._wanted = dict(wanted)
        if self.running:
            self._take_up()

    def startService(self) -> None:
        """Twisted's call: the first look is at once."""
        self._budget = self._registry.budget()
        self._take_up()
        super().startService()

    def stopService(self) -> Any:
        """Twisted's call: orders in flight are given up; what is on disk is whole."""
        for issuing, _ in list(self._issuing.values()):
            issuing.cancel()
        for asking in list(self._asking):
            asking.cancel()
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        return super().stopService()

    def _take_up(self) -> None:
        """Read what is on disk of each certificate that is wanted and not known yet."""
        before, self._items = self._items, {}
        for label, names in self._wanted.items():
            item = before.get(label)
            if item is None or item.names != names:
                item = self._read(label, names)
            item.record = item.record.given_another_chance() if before else item.record
            self._items[label] = item
            self._reckon(item)

    def _read(self, label: str, names: tuple[str, ...]) -> Item:
        pair = self._registry.pair(label)
        if pair is None:
            urls = [desk.authority.directory_url for desk in self._desks]
            pair = self._registry.adopt(label, names, urls)
            if pair is not None:
                self._changed(label)
        record = self._registry.record(label).changed(digest(self._settings, names))
        item = Item(label, names, record)
        if pair is not None:
            item.use(pair.leaf, pair.names, self._rng)
        if record.authority and self._desk_of(record.authority) is None:
            item.complete = False  # somebody has turned from a staging authority to the real one
        return item

    # -- The timer's part -----------------------------------------------------------------------------------

    def _check_certs(self) -> Deferred[None]:
        """txacme's timer calls this. It begins what is due and waits for nothing."""
        try:
            self._begin_what_is_due()
        except Exception:  # or the timer would stop for good
            log.failure("looking for certificates to renew failed")
        return succeed(None)

    def _begin_what_is_due(self) -> None:
        now = self._wall()
        due = [item for item in self._items.values() if item.next <= now and not item.busy]
        places = AT_ONCE - sum(item.busy for item in self._items.values())
        for item in sorted(due, key=Item.urgency)[: max(places, 0)]:
            if item.order_at <= now:
                self._begin_order(item, now)
            else:
                self._begin_question(item)
        if not self.ready and all(item.was_tried or item.leaf for item in self._items.values()):
            self.ready = True
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                each.callback(None)

    def _look_soon(self) -> None:
        """There is room for another order."""
        if self._soon is None and self.running:
            self._soon = self._clock.callLater(0, self._look_now)

    def _look_now(self) -> None:
        self._soon = None
        self._check_certs()

    def _reckon(self, item: Item) -> None:
        """When something is to be done about it."""
        now = self._wall()
        item.order_at = max(
            item.record.due_at(item.life, item.complete), self._budget.open_at(item.names, now)
        )
        asks = item.life is not None and now < item.life.ends and self._desk_of(item.record.authority)
        item.next = min(item.order_at, item.record.ask_at if asks else NEVER)

    def _begin_order(self, item: Item, now: float) -> None:
        index, again = choose(item.record.turn, [desk.standing for desk in self._desks], now)
        if index is None:
            item.next = item.order_at = again
            return
        item.desk, item.busy = self._desks[index], True

        def ended(result: object) -> None:
            item.busy, item.was_tried = False, True
            self._reckon(item)
            self._look_soon()
            if isinstance(result, Failure) and not result.check(AcmeError, CancelledError):
                log.failure("the order for {label} failed", result, label=item.label)

        self.issue_cert(item.label).addBoth(ended)

    def _begin_question(self, item: Item) -> None:
        item.busy = True
        asking = ensureDeferred(self._ask(item))
        self._asking.add(asking)

        def ended(result: object) -> None:
            item.busy = False
            self._asking.discard(asking)
            self._reckon(item)
            if isinstance(result, Failure) and not result.check(CancelledError):
                log.failure("asking when to renew {label} failed", result, label=item.label)

        asking.addBoth(ended)

    # -- An order -------------------------------------------------------------------------------------------

    def _ensure_registered(self) -> Deferred[None]:
        """txacme's call; accounts are registered by their client, when it first needs one."""
        return succeed(None)

    def _with_client(self, f: Callable[..., Any], *a: Any, **kw: Any) -> Deferred[Any]:
        """txacme's call for `_issue_cert` with a label; every failure of an order passes here."""
        item = self._items.get(a[0])
        if item is None:
            return fail(ours(f"no app has a certificate {a[0]}"))
        opens = self._budget.open_at(item.names, self._wall())
        if opens > self._wall():
            return fail(ours(f"{item.label} has failed too often, it may be tried at {moment_of(opens)}"))
        item.desk = item.desk or self._desks[0]
        connected = ensureDeferred(self._client(item.desk))
        return connected.addCallback(f, *a, **kw).addErrback(self._note_failure, item)

    def _issue_cert(self, client: Client, server_name: str) -> Deferred[None]:
        """txacme's call, once at a time for each label."""
        return ensureDeferred(self._issue(client, self._items[server_name]))

    async def _client(self, desk: Desk) -> Client:
        if desk.client is None:
            url = desk.authority.directory_url
            key = await self._in_thread(self._registry.account_key, url)
            desk.client = desk.client or desk.authority.connect(key)
        return desk.client

    async def _issue(self, client: Client, item: Item) -> None:
        """From the budget to the disk."""
        await self._charge(item)
        desk = self._desk_of(client.directory_url)
        assert desk is not None
        wish = Wish(item.names, desk.authority.profile, self._replaced(item, client))
        got = await obtain(client, self._responders, wish, self._new_key)
        await self.cert_store.store(item.label, [pem.Key(got.key), *map(pem.Certificate, got.chain)])
        desk.standing = Standing()
        item.record = item.record.succeeded(client.directory_url, self._wall(), life_of(got.leaf))
        item.use(got.leaf, item.names, self._rng)
        await self._refund(item, item.names)
        await self._keep_record(item)

    async def _charge(self, item: Item) -> None:
        """Count a failure before there is one: who crashes in the middle has not tried for free."""
        item.charged_at = self._wall()
        self._budget = self._budget.charged(item.names, item.charged_at)
        await self._registry.keep_budget(self._budget)

    async def _refund(self, item: Item, names: Sequence[str]) -> None:
        self._budget = self._budget.refunded(names, item.charged_at)
        await self._registry.keep_budget(self._budget)

    async def _new_key(self) -> CertificateKey:
        key: CertificateKey = await self._in_thread(self._generate_key)
        return key

    def _replaced(self, item: Item, client: Client) -> str | None:
        """The certificate that the new one is for, if this authority knows it."""
        if item.leaf is None or item.record.authority != client.directory_url:
            return None
        try:
            return renewal_id(item.leaf)
        except AcmeError:
            return None

    # -- What came of it ------------------------------------------------------------------------------------

    def _note_failure(self, failure: Failure, item: Item) -> Deferred[Any]:
        """Every failure of an order; the same failure goes on to whoever waits for it."""
        if failure.check(CancelledError):
            return fail(failure)
        return ensureDeferred(self._note(problem_of(failure, item.label), item))

    async def _note(self, problem: AcmeError, item: Item) -> None:
        now = self._wall()
        assert item.desk is not None
        if problem.kind in (Kind.UNREACHABLE, Kind.LIMITED):
            item.desk.standing = item.desk.standing.failed(problem, now, self._rng)
        counted = problem.names if problem.kind in (Kind.VALIDATION, Kind.REFUSED) else ()
        item.record = item.record.failed(problem, now, self._rng, len(self._desks))
        try:
            await self._refund(item, [name for name in item.names if name not in counted])
            await self._keep_record(item)
        except OSError as trouble:
            log.error("cannot write {path}: {why}", path=trouble.filename, why=trouble.strerror)
        self._tell(problem, item, now)
        raise problem

    async def _keep_record(self, item: Item) -> None:
        await self._registry.keep_record(item.label, item.record)

    def _tell(self, problem: AcmeError, item: Item, now: float) -> None:
        self._reckon(item)
        assert item.desk is not None
        urgent = item.life is None or item.life.is_critical(now)
        log.emit(
            LogLevel.critical if urgent else LogLevel.warn,
            "no certificate for {label} from {authority}: {why}; next attempt {when}{until}",
            label=item.label,
            authority=item.desk.authority.directory_url,
            why=problem.words,
            when=moment_of(max(item.next, now)),
            until=f", the one in use is good until {moment_of(item.life.ends)}" if item.life else "",
        )
        if urgent:
            self._panic(Failure(problem), item.label)

    # -- Renewal information --------------------------------------------------------------------------------

    async def _ask(self, item: Item) -> None:
        """When does the authority want this certificate renewed? No answer is as good as no opinion."""
        desk, leaf = self._desk_of(item.record.authority), item.leaf
        assert desk is not None
        assert leaf is not None
        try:
            found = await (await self._client(desk)).suggestion(leaf)
        except (AcmeError, OSError, ValueError) as problem:
            log.info("no renewal information for {label}: {why}", label=item.label, why=str(problem))
            found = None
        now = self._wall()
        if found is None:
            item.record = item.record.not_suggested(now, self._rng)
        else:
            window = Window(found.begins, found.ends)
            item.record = item.record.suggests(window, found.explanation, found.ask_again, now, self._rng)
        if found is not None and found.explanation:
            log.info(
                "{authority} explains when it wants {label} renewed: {url}",
                authority=desk.authority.directory_url,
                label=item.label,
                url=found.explanation,
            )
        try:
            await self._keep_record(item)
        except OSError as trouble:
            log.error("cannot write {path}: {why}", path=trouble.filename, why=trouble.strerror)

    def _desk_of(self, directory_url: str) -> Desk | None:
        return next((desk for desk in self._desks if desk.authority.directory_url == directory_url), None)
