"""What every test stands on: a collector that need not look at all the tests each time it is asked."""

from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    """Tests that count what is left collect first; ten thousand tests in memory made that 0.1 s each time."""
    gc.collect()
    gc.freeze()
