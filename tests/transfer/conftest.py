"""The transports that the contract's suite runs over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.transfer.networked import NETWORKED
from tests.transfer.pairs import PAIRS, Pair, nothing_left_behind

ALL = PAIRS | NETWORKED


@pytest.fixture(params=list(ALL))
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    """Two engines; both are closed, and have left nothing behind, after the test."""
    # What a worker mapped of its agent's arena stays until pytest forgets the frames.
    but = "memfd" if request.param == "agent" else "nothing"
    with nothing_left_behind(but):
        with ALL[request.param](tmp_path) as made:
            yield made
            made.link.close()
            made.mover.close()
            made.lender.close()
            # A second time is harmless.
            made.lender.close()
            made.mover.close()
        del made
