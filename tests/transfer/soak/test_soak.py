"""A short soak; `python -m tests.transfer.soak` runs as long a one as is wanted."""

from __future__ import annotations

import logging

import pytest

from tests.transfer.pairs import nothing_left_behind
from tests.transfer.soak.cases import FAULTS, HARMS
from tests.transfer.soak.run import MODES, soak

# By this seed so few of them have each fault in each mode; harm is done by any.
TRANSFERS, SEED = 240, 13


# A machine that is busy takes several times as long as one that is not.
@pytest.mark.timeout(600)
def test_every_byte_is_accounted_for() -> None:
    with nothing_left_behind():
        found = soak(TRANSFERS, SEED, logging.getLogger(__name__).info, MODES)
    assert found.wrong == []
    assert found.counts["transfers"].total() == TRANSFERS
    assert found.counts["modes"] == dict.fromkeys(MODES, TRANSFERS // 3)
    # It was no soak in clean water: each of these was done, and harm did happen.
    for mode in MODES:
        done = found.counts[f"{mode}: faults of one transfer"]
        assert set(done) == set(FAULTS) - {"none"}, mode
        assert set(found.counts[f"{mode}: harm to a wave"]) == set(HARMS) - {"none"}
    assert found.counts["transfers"]["delivered"] > TRANSFERS // 3
