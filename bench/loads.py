"""The work given to a proxy: wrk, h2load and curl started against an URL, and their reports read strictly.

Everything raises `Trouble` where the work was not done as meant: a status other than 200, a
connection that broke, a download cut short. An error is cheap to serve and must not look fast.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

from figures import Trouble

BIG = 1 << 30
"""Bytes of the file that the bulk cases download."""

Load = Callable[[str, int], float]
"""Does its work against an URL for so many seconds and returns how many units it did."""

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

    def load(url: str, seconds: int) -> float:
        return requests_done(_output("wrk", "-t1", f"-c{connections}", f"-d{seconds}", *fields, url))

    return load


def h2load(clients: int, streams: int) -> Load:
    """As many requests as so many clients get done over HTTP/2, each with so many at a time."""

    def load(url: str, seconds: int) -> float:
        return h2_requests_done(_output("h2load", "-t1", f"-c{clients}", f"-m{streams}", f"-D{seconds}", url))

    return load


def download(url: str, seconds: int) -> float:
    """The big file once, however long it takes. The unit is a GB."""
    return gigabytes(_curl(url, "--http1.1"))


def download_h2(url: str, seconds: int) -> float:
    """The same over HTTP/2."""
    return gigabytes(_curl(url, "--http2"))


def expect_answer(url: str) -> None:
    """One small request ahead of the work: wrk takes a redirect for a success."""
    status = _curl(url, "--http1.1", "--max-time", "10", "--range", "0-0").split()[1]
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


def _curl(url: str, *options: str) -> str:
    """curl's count of bytes and the status. `options` name the version: all must do the same work."""
    name, port = re.match(r"https?://([^:/]+):(\d+)/", url).groups()  # type: ignore[union-attr]
    fixed = ["-sk", "--resolve", f"{name}:{port}:127.0.0.1", "-o", "/dev/null"]
    return _output("curl", *fixed, *options, "-w", "%{size_download} %{http_code}", url)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
