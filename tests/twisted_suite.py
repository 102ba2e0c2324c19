"""A program: runs one of Twisted's own test modules on our reactor, and writes down how it went.

`python twisted_suite.py MODULE RESULT`, with what to leave out as JSON on standard input: the names of
test methods, and why. Started by test_twisted_contract.py.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

LONGEST = 20
"""Seconds for one test, which takes milliseconds; Twisted's own limit is two minutes."""


def main(module: str, place: str) -> None:
    from twisted.application.reactors import installReactor

    installReactor("rproxy")  # by the name that the plugin gives it
    from twisted.python.reflect import namedAny
    from twisted.trial.reporter import MinimalReporter
    from twisted.trial.runner import TestLoader, TrialRunner

    build_ours()
    namedAny(module)
    leave_out(json.load(sys.stdin))
    runner = TrialRunner(MinimalReporter, workingDirectory=str(Path(place).with_suffix(".trial")))
    result = runner.run(TestLoader().loadByName(module))
    Path(place).write_text(json.dumps(told(result)))
    sys.stdout.flush()
    os._exit(0)  # whatever threads or processes a failed test has left


def build_ours() -> None:
    """Cases that are made for every reactor are made for ours alone."""
    from twisted.internet.test.reactormixins import ReactorBuilder

    from rproxy.streams import Complete

    builder: Any = ReactorBuilder
    builder._reactors, builder.timeout = ["rproxy.reactor.ProxyReactor"], LONGEST
    kind: Any = Complete
    kind._writeDisconnected = property(lambda transport: transport._half_closed)  # one test looks at it


def leave_out(reasons: dict[str, str]) -> None:
    """Skip these, for the classes that are named and those made from them."""
    from twisted.python.reflect import namedAny

    for name, reason in reasons.items():
        owner, _, method = name.rpartition(".")
        if owner.rpartition(".")[0] in sys.modules:
            assert hasattr(namedAny(owner), method), f"{name} does not exist any more"
            setattr(namedAny(owner), method, skipped(reason))


def skipped(reason: str) -> Any:
    def test(self: Any) -> None:
        """Never called."""

    marked: Any = test
    marked.skip = reason
    return marked


def told(result: Any) -> dict[str, Any]:
    """The tests that passed, by number, those that were skipped, and those that failed; with the reasons."""
    bad = [(case.id(), failure.getTraceback()) for case, failure in [*result.errors, *result.failures]]
    left = [(case.id(), str(reason)) for case, reason in result.skips]
    return {"passed": result.successes, "skipped": left, "bad": bad, "ran": what_ran()}


def what_ran() -> dict[str, str]:
    """Which copy of rproxy it was, and that the reactor is ours."""
    from twisted.internet import reactor

    import rproxy

    return {"rproxy": str(Path(rproxy.__file__).parent), "reactor": type(reactor).__name__}


if __name__ == "__main__":
    main(*sys.argv[1:])
