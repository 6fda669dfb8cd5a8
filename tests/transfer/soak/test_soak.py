"""A short soak; `python -m tests.transfer.soak` runs as long a one as is wanted."""

from __future__ import annotations

import logging

import pytest

from tests.transfer.pairs import nothing_left_behind
from tests.transfer.soak.cases import FAULTS
from tests.transfer.soak.run import MODES, soak

TRANSFERS = 240


# A machine that is busy takes several times as long as one that is not.
@pytest.mark.timeout(600)
def test_every_byte_is_accounted_for() -> None:
    with nothing_left_behind():
        found = soak(TRANSFERS, 3, logging.getLogger(__name__).info, MODES)
    assert found.wrong == []
    assert found.counts["transfers"].total() == TRANSFERS
    assert found.counts["modes"] == dict.fromkeys(MODES, TRANSFERS // 3)
    # It was no soak in clean water.
    assert set(found.counts["faults of one transfer"]) == set(FAULTS) - {"none"}
    assert {"reset", "flip data", "flip control"} <= set(found.counts["harm to a wave"])
    assert found.counts["transfers"]["delivered"] > TRANSFERS // 3
