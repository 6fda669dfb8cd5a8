"""Fifty steps of training are what they were (`tests/training/golden.py`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.training.golden import EVERY, FILE, STEPS, environment, numbers, trajectory


def test_the_trajectory_is_the_recorded_one(tmp_path: Path) -> None:
    """Within 1e-8; to the bit where it was recorded."""
    recorded = json.loads(FILE.read_text())
    found = trajectory(tmp_path)
    assert len(recorded["losses"]) == STEPS
    assert len(recorded["weights"]) == STEPS // EVERY
    assert recorded["losses"][-1] < recorded["losses"][0] - 0.1
    assert numbers(found) == pytest.approx(numbers(recorded), rel=0, abs=1e-8)
    if environment() == recorded["environment"]:
        assert found["losses"] == recorded["losses"]
        assert found["weights"] == recorded["weights"]
