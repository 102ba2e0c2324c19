"""The work given to a proxy: wrk, h2load and curl started against an URL, and their reports read strictly.

Everything raises `Trouble` where the work was not done as meant: a status other than 200, a
connection that broke, a download cut short. An error is cheap to serve and must not look fast.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from figures import Trouble

BIG = 1 << 30
"""Bytes of the file that the bulk cases download."""


class Errand(NamedTuple):
    """Where a load is sent, for how many seconds, and the folder with the client's certificate."""

    url: str
    seconds: int
    folder: Path


Load = Callable[[Errand], float]
"""Does its work and returns how many units it did."""

CLOSE = ("Connection: close",)
BROWSER = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:146.0) Gecko/20100101 Firefox/146.0",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language: de,en-US;q=0.7,en;q=0.3",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Upgrade-Insecure-Requests: 1",
    "Sec-Fetch-Dest: document",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-Site: none",
    "Cookie: session=f3a91c07d2e84b65; consent=necessary; lang=de",
)
"""What a browser sends on top of Host: nine fields, about 500 bytes."""


def wrk(connections: int, headers: tuple[str, ...] = ()) -> Load:
    """As many requests as so many clients get done. The unit is a request."""
    fields = [part for header in headers for part in ("-H", header)]

    def load(errand: Errand) -> float:
        words = ("wrk", "-t1", f"-c{connections}", f"-d{errand.seconds}", *fields, errand.url)
        return requests_done(_output(*words))

    return load


def h2load(clients: int, streams: int) -> Load:
    """As many requests as so many clients get done over HTTP/2, each with so many at a time."""

    def load(errand: Errand) -> float:
        words = ("h2load", "-t1", f"-c{clients}", f"-m{streams}", f"-D{errand.seconds}", errand.url)
        return h2_requests_done(_output(*words))

    return load


def download(errand: Errand) -> float:
    """The big file once, however long it takes. The unit is a GB."""
    return gigabytes(_curl(errand, "--http1.1"))


def download_h2(errand: Errand) -> float:
    """The same over HTTP/2."""
    return gigabytes(_curl(errand, "--http2"))


def expect_answer(errand: Errand) -> None:
    """One small request ahead of the work: wrk takes a redirect for a success."""
    status = _curl(errand, "--http1.1", "--max-time", "10", "--range", "0-0").split()[1]
    if status not in ("200", "206"):
        raise Trouble("no answer" if status == "000" else f"status {status}")


def requests_done(report: str) -> int:
    """How many requests wrk reports, when all were answered well."""
    if trouble := re.search(r"(Non-2xx.*|Socket errors.*)", report):
        raise Trouble(trouble[1].strip())
    done = re.search(r"^\s*(\d+) requests in", report, re.M)
    if done is None or not int(done[1]):
        raise Trouble("wrk got no request done")
    return int(done[1])


def h2_requests_done(report: str) -> int:
    """How many requests h2load reports, when all were answered well."""
    counts = re.search(
        r"^requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed", report, re.M
    )
    statuses = re.search(r"^status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx", report, re.M)
    if counts is None or statuses is None or int(counts[3]) or not int(counts[1]):
        raise Trouble(
            "h2load: " + next((line for line in report.splitlines() if "requests:" in line), "no report")
        )
    return int(counts[1])


def gigabytes(report: str) -> float:
    """The size that curl reports, when it is the whole file."""
    size, status = report.split()
    if status != "200" or int(size) != BIG:
        raise Trouble(f"status {status}, {size} of {BIG} bytes")
    return int(size) / 1e9


def _curl(errand: Errand, *options: str) -> str:
    """curl's count of bytes and the status. `options` name the version: all must do the same work."""
    name, port = re.match(r"https?://([^:/]+):(\d+)/", errand.url).groups()  # type: ignore[union-attr]
    fixed = ["-sk", "--resolve", f"{name}:{port}:127.0.0.1", "-o", "/dev/null"]
    known = ["--cert", str(errand.folder / "client.pem"), "--key", str(errand.folder / "client.key")]
    # curl shows the certificate only to those that ask for one.
    return _output("curl", *fixed, *known, *options, "-w", "%{size_download} %{http_code}", errand.url)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
