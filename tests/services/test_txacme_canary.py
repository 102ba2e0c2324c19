"""A canary: the release of txacme that we build on still works with everything else that is installed.

When one of these fails after an update, the pins in pyproject.toml are no longer enough.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

from tests.e2e.programs import ROOT, environment


def test_import_txacme_service_still_works() -> None:
    """In a fresh process: nothing that a test has imported before can help."""
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", "import txacme.service, txacme.store"],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_release_is_the_one_whose_private_methods_we_override() -> None:
    assert version("txacme") == "0.9.3"
    from txacme.service import AcmeIssuingService  # type: ignore[import-untyped]

    for name in ("_check_certs", "_issue_cert", "_with_client", "_ensure_registered", "issue_cert"):
        assert callable(getattr(AcmeIssuingService, name))


def test_importing_it_installs_no_reactor() -> None:
    words = "import sys, txacme.service, rproxy.services.acme_service; "
    words += "sys.exit('twisted.internet.reactor' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", words], cwd=ROOT, env=environment(), timeout=60, check=False)
    assert done.returncode == 0


def test_a_proxy_without_acme_does_not_import_it() -> None:
    words = "import sys, rproxy.assemble, rproxy.assemble_tls, rproxy.tap; "
    words += "dear = {'txacme', 'acme', 'josepy', 'eliot', 'requests', 'treq'}; "
    words += "sys.exit(not dear.isdisjoint(m.split('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", words], cwd=ROOT, env=environment(), timeout=60, check=False)
    assert done.returncode == 0
