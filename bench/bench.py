#!/usr/bin/env python3
"""What rproxy costs beside nginx and HAProxy, side by side in one run. How to read it: README.md here.

The proxies take turns on the same work, round after round; what is compared is the CPU time
(user and system) that a proxy's processes used per unit, which stays put on a machine whose
speed does not; for idle connections memory, for h1_latency and h1_half time. Needs nginx (with the
stream module), haproxy, wrk, h2load, curl, openssl and a C compiler, and a `pass.localhost` that
resolves to 127.0.0.1 (wrk takes its server name from the URL). Exits with 1 when a round of any case
did not count. A run of all cases writes table.md and chart.svg anew.

    bench/bench.py [--cases h1,sni_conn,...] [--targets nginx,haproxy,rproxy] [--rounds 5] [--seconds 3]
                   [--pure] [--json FILE] [--report FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import machine
import report
from cases import MEASURES
from figures import Figure
from proxies import TARGETS, Yard, require_programs
from works import Run


def main() -> None:
    options = arguments()
    require_programs()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the proxies must not outlive us
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    folder = Path(tempfile.mkdtemp(prefix="rproxy-bench"))
    folder.chmod(0o755)
    try:
        figures = measured(options, folder)
    finally:
        shutil.rmtree(folder)
    sys.exit(any(figure.failures for figure in figures))


def measured(options: argparse.Namespace, folder: Path) -> list[Figure]:
    """Run the cases, print each figure as soon as it is known, and write all to the JSON file."""
    yard = Yard(folder, pure=options.pure)
    run = Run(yard, options.targets, options.rounds, options.seconds)
    figures: list[Figure] = []
    facts = machine.facts()
    about = introduction(yard.build, facts)
    try:
        print("\n".join([*about, f"rproxy is {yard.build.exchange}"]), flush=True)
        for case in options.cases:
            for figure in MEASURES[case](case, run):
                print(figure.text(), flush=True)
                figures.append(figure)
        if place := report_folder(options):
            report.write(place, [*about, method(options)], figures)
    finally:
        yard.backend.stop()
        if options.json:
            write(options, yard.build, facts, figures)
    return figures


def report_folder(options: argparse.Namespace) -> Path | None:
    """Where table and chart go: beside this file, if all cases were asked for; None for nowhere."""
    whole = options.cases == tuple(MEASURES) and options.targets == TARGETS and not options.pure
    return options.report or (Path(__file__).resolve().parent if whole else None)


def method(options: argparse.Namespace) -> str:
    """When, and how long."""
    day = time.strftime("%Y-%m-%d")
    return f"{day}; {options.rounds} rounds of {options.seconds} s in turns, one process each, on loopback"


def introduction(build: machine.Build, facts: dict[str, str]) -> list[str]:
    """What the figures are about; and a warning where they will not hold."""
    ours = f"rproxy {build.version}, {build.kind}"
    beside = f"nginx {facts['nginx']}, HAProxy {facts['haproxy']}"
    below = f"CPython {build.python}, Twisted {build.twisted}, OpenSSL {build.openssl}"
    lines = [ours, f"{beside}, {below}", f"{facts['cpu']}; {facts['system']}; load {facts['load']}"]
    if float(facts["load"]) > machine.IDLE_LOAD:
        lines.append("the machine was not idle: only the ratios mean something, and those little")
    return lines


def write(
    options: argparse.Namespace, build: machine.Build, facts: dict[str, str], figures: list[Figure]
) -> None:
    """All that was found, every round of it."""
    run = {"rounds": options.rounds, "seconds": options.seconds, "load_after": f"{os.getloadavg()[0]:.2f}"}
    about = {"build": build._asdict() | {"kind": build.kind}, "machine": facts, "run": run}
    records = [figure.record() for figure in figures]
    options.json.write_text(json.dumps(about | {"figures": records}, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cases", type=listed(MEASURES), default=tuple(MEASURES), help=f"of {', '.join(MEASURES)}"
    )
    parser.add_argument("--targets", type=listed(TARGETS), default=TARGETS, help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each round of a case that has no size")
    parser.add_argument("--pure", action="store_true", help="run rproxy without its compiled modules")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round to FILE")
    parser.add_argument(
        "--report", type=Path, metavar="FOLDER", help="write table.md and chart.svg there, whatever was run"
    )
    return parser.parse_args()


def listed(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """For argparse: comma-separated words, all of them known."""

    def words(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        if unknown := set(chosen).difference(known):
            raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; there is {', '.join(known)}")
        return chosen

    return words


if __name__ == "__main__":
    main()
