"""Who is banned now: asked by gates, changed over the admin socket, by jails, and by whoever edits the file.

Bans hold from the moment they are made. The file follows: at once for those made by hand, within a
second for those that jails make, or ten where it is very long. What somebody else has written there in
the meantime is read first and kept. A file that cannot be read or written is logged; bans then live in
memory until it can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from twisted.application.service import MultiService
from twisted.logger import Logger

from rproxy.errors import ConfigError
from rproxy.policy.bantable import EVER, Network, read_network
from rproxy.services.bancheck import BanCheck
from rproxy.services.banfile import (
    JAILED,
    MOST_BANS,
    MOST_JAILED,
    BanFile,
    load_text,
    read_lines,
    save_text,
    written,
)
from rproxy.services.reload import Fingerprint, Watch, fingerprint

log = Logger()

SAVE_EVERY: Final = 1.0
"""Seconds between two writings of the file, at least: a jail under attack makes many bans."""
REST: Final = 100
"""How many times longer nothing is written than a writing took, so that strangers take a hundredth of our
time: half a million bans made by hand take a tenth of a second."""
TRY_AGAIN: Final = 10.0
"""Seconds until a file that could not be written is tried again."""
LOOK_EVERY: Final = 3600.0
"""Seconds between two looks for bans that are over, at most."""
QUIET: Final = 10.0
"""Seconds between two log lines about jails that are full: a flood must not become a flood of lines."""
MOST_SAID: Final = 100
"""Characters of a jail's name beside a ban: with all reasons it has 500, and the file fifty thousand such."""
LOOKED_THROUGH: Final = 10_000
"""Bans that are looked through per second, which takes 3 ms. Of more, networks are banned a little longer."""


class Loaded:
    """A ban list that has been read and is not used yet; see `Bans.load`."""

    def __init__(self, path: Path | None, file: BanFile, seen: Fingerprint) -> None:
        self.path, self.file, self.seen = path, file, seen


class Bans(MultiService):
    """The ban list of one proxy. `enforce` is called when somebody may be banned who was not before."""

    name = "bans"

    def __init__(self, reactor: Any, enforce: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._reactor, self.enforce = reactor, enforce
        self._file = BanFile()
        self.check = BanCheck(reactor, self._file.table)
        """What gates ask."""
        self._path: Path | None = None
        self._seen: Fingerprint = ()
        self._watch: Watch | None = None
        self._unsaved: dict[str, tuple[Network, float | None, str]] = {}
        self._reading: Iterator[None] | None = None
        self._again = self._broken = False
        self._save_timer: Any = None
        self._expiry_timer: Any = None
        self._save_again = self._silent_until = float("-inf")
        self._next_end, self._trouble = EVER, ""

    def __len__(self) -> int:
        return len(self._file.table)

    @property
    def jailed(self) -> int:
        """How many of them jails have made."""
        return self._file.jailed

    def banned(self, host: str) -> bool:
        """Whether this address is banned now; canonical text."""
        return self.check.banned(host)

    def listed(self, most: int) -> list[str]:
        """The latest bans, at most so many, as lines of the file."""
        now = self._reactor.seconds()
        found: list[str] = []
        for key, line in reversed(self._file.lines.items()):
            until = self._file.table.until(key)
            if until is not None and until > now:
                found.append(line)
                if len(found) == most:
                    break
        return found

    def ban(self, text: str, seconds: float | None = None, note: str = "") -> str:
        """Ban an address or network, for ever without `seconds`; the line that says so.

        `note` begins with `#`. Raises ValueError for what is no network.
        """
        network = read_network(text)
        if self._file.is_full_for(network):
            raise ValueError(f"there are {MOST_BANS} bans already: a firewall is the place for so many")
        until = EVER if seconds is None else self._reactor.seconds() + seconds
        self._add(network, until, note)
        return written(network.text, until, note)

    def ban_client(self, network: str, seconds: float, jail: str) -> None:
        """The same for the jail of this name: where jails have as many as they may, their oldest ban ends."""
        until = self._reactor.seconds() + seconds
        oldest = self._add(read_network(network), until, JAILED + jail[:MOST_SAID])
        self._unsaved.pop(oldest, None)
        now = self._reactor.seconds()
        if oldest and now >= self._silent_until:
            self._silent_until = now + QUIET
            log.warn(
                "jails have banned {most}, and with each one more their oldest ban ends", most=MOST_JAILED
            )

    def unban(self, text: str) -> bool:
        """Lift the ban on exactly this; whether there was one. Raises ValueError for what is no network."""
        network = read_network(text)
        if not self._file.remove(network):
            return False
        self._file.table.settle()
        if self._path is None:
            self._unsaved.pop(network.text, None)
        else:
            self._unsaved[network.text] = network, None, ""
        self._save_soon()
        return True

    def save(self) -> str:
        """Write what is not written yet, now; what is in the way of that, or nothing."""
        if self._path is None:
            return "there is no ban_list in the configuration, so a restart forgets this"
        self._save()
        return self._trouble

    def load(self, path: Path | None) -> Loaded:
        """Read a ban list, to be used or not. Raises `ConfigError`."""
        if path is None or path == self._path:
            return Loaded(path, self._file, self._seen)
        file, seen = BanFile(), fingerprint(path)
        for _ in read_lines(load_text(path), str(path), self._reactor.seconds(), file):
            pass
        return Loaded(path, file, seen)

    def use(self, loaded: Loaded) -> None:
        """Go by this list from now on."""
        if loaded.path == self._path:
            return
        self._drop_watch()
        self._path, self._seen, self._reading = loaded.path, loaded.seen, None
        self._broken = self._again = False
        if loaded.path is None:
            self._take(BanFile())
        else:
            self._watch = Watch(self._reactor, loaded.path, self._reread, loaded.seen)
            self._watch.name = "ban list watch"
            self._watch.setServiceParent(self)
            self._take(loaded.file)

    def stopService(self) -> Any:
        """Twisted's call: write what is not written yet."""
        if self._unsaved and self._path is not None:
            self._save()
        self._stop_timer("_save_timer")
        self._stop_timer("_expiry_timer")
        return super().stopService()

    def _add(self, network: Network, until: float, note: str) -> str:
        oldest = self._file.add(network, until, note)
        self._file.table.settle()
        self._unsaved[network.text] = network, until, note
        self._look_for_ends(until)
        self._save_soon()
        self.enforce()
        return oldest

    def _save_soon(self, at_least: float = 0.0) -> None:
        if self._path is not None and self._save_timer is None:
            wait = self._save_again - self._reactor.seconds()
            self._save_timer = self._reactor.callLater(min(max(wait, at_least), TRY_AGAIN), self._save)

    def _save(self) -> None:
        """Write the file, unless somebody else has: then it is read before."""
        self._stop_timer("_save_timer")
        path = self._path
        assert path is not None
        if self._reading is None and fingerprint(path) not in (self._seen, ()):
            self._reread()
        if self._reading is not None or self._broken:  # it is written once it has been read
            return
        if not self._write(path):
            self._save_soon(TRY_AGAIN)
            return
        self._unsaved.clear()
        self._seen = fingerprint(path)
        if self._watch is not None:
            self._watch.noted()

    def _write(self, path: Path) -> bool:
        began, self._trouble = self._reactor.seconds(), ""
        try:
            save_text(path, self._file.text())
        except OSError as problem:
            self._trouble = f"{path} cannot be written: {problem.strerror}; a restart forgets this"
            log.error("{trouble}", trouble=self._trouble)
        now = self._reactor.seconds()
        self._save_again = now + max(SAVE_EVERY, REST * (now - began))
        return not self._trouble

    def _reread(self) -> None:
        """Somebody has written the file: read it, a slice at a time, and go by it if it is sound."""
        if self._reading is not None:
            self._again = True
            return
        path, file = self._path, BanFile()
        assert path is not None
        self._seen = fingerprint(path)
        try:
            text = load_text(path)
        except ConfigError as mistakes:
            self._is_broken(mistakes)
            return
        self._reading = read_lines(text, str(path), self._reactor.seconds(), file)
        self._read_on(self._reading, file)

    def _read_on(self, reading: Iterator[None], file: BanFile) -> None:
        if self._reading is not reading:  # another file is the ban list now
            return
        try:
            next(reading)
        except StopIteration:
            self._reading = None
            self._broken, self._trouble = False, ""
            self._take(file)
            log.info("{n} bans in {path}", n=len(file.table), path=str(self._path))
        except ConfigError as mistakes:
            self._reading = None
            self._is_broken(mistakes)
        else:
            self._reactor.callLater(0, self._read_on, reading, file)
            return
        if self._again:
            self._again = False
            self._reread()

    def _is_broken(self, mistakes: ConfigError) -> None:
        self._broken, self._trouble = True, f"{self._path} has mistakes, see the log, and is not written"
        log.error("the bans stay as they were, and are not written:\n{why}", why=str(mistakes))

    def _take(self, file: BanFile) -> None:
        """Use a file that was read, with what was changed since."""
        for network, until, note in self._unsaved.values():
            if until is None:
                file.remove(network)
            else:
                file.add(network, until, note)
        file.table.settle()
        self._file, self.check.table = file, file.table
        if self._unsaved or file.moved:
            self._save_soon()
        self._end_bans()
        self.enforce()

    def _end_bans(self) -> None:
        """Drop the bans that are over; until then only look-ups know the time."""
        now = self._reactor.seconds()
        following = self._file.expire(now)
        ended = [key for key, (_, until, _) in self._unsaved.items() if until is not None and until <= now]
        for key in ended:
            del self._unsaved[key]
        self._next_end = EVER
        self._look_for_ends(following)

    def _look_for_ends(self, until: float) -> None:
        if until < self._next_end:
            self._stop_timer("_expiry_timer")
            self._next_end = until
            soon = max(1.0, len(self._file.table) / LOOKED_THROUGH)
            wait = min(max(until - self._reactor.seconds(), soon), LOOK_EVERY)
            self._expiry_timer = self._reactor.callLater(wait, self._end_bans)

    def _drop_watch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.disownServiceParent()

    def _stop_timer(self, name: str) -> None:
        timer = getattr(self, name)
        setattr(self, name, None)
        if timer is not None and timer.active():
            timer.cancel()
