"""Equal ways of computing a step, over 20 steps of SGD in fp64, for every scheme."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prefillshare.training.settings import BatchSettings, PrefixSettings
from tests.training.test_trainer import assert_equal_to, settings, weights_of

SCHEMES: dict[str, dict[str, Any]] = {
    "shared": {},
    "shared, full": {"method": "full"},
    "one pass": {"path": "one_pass"},
    "own": {"prefill": "own"},
    "icarus": {"prefill": "icarus"},
    "recompute": {"prefill": "recompute", "recompute": (1, 2)},
}
CHANGES: dict[str, dict[str, Any]] = {
    "accumulated": {"batch": BatchSettings(units=3, units_per_pass=1)},
    "packed by two": {"batch": BatchSettings(units=3, units_per_pass=2)},
    "checkpointed": {"gradient_checkpointing": True},
    "prefixes recomputed": {"prefixes": PrefixSettings(memory_bytes=0)},
}
STEPS = {"steps": 20, "optimizer": "sgd", "learning_rate": 0.05}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_equal_ways_end_with_equal_weights(
    tiny_directory: Path, tmp_path: Path, scheme: str
) -> None:
    fields = {**STEPS, "batch": BatchSettings(units=3), **SCHEMES[scheme]}
    start = weights_of(
        settings(tiny_directory, tmp_path / "start", **{**fields, "steps": 1})
    )
    end = weights_of(settings(tiny_directory, tmp_path / "end", **fields))
    assert any(not torch.allclose(start[n], end[n], atol=1e-4) for n in end)
    for name, change in CHANGES.items():
        other = settings(tiny_directory, tmp_path / name, **{**fields, **change})
        assert_equal_to(end, weights_of(other), 1e-8)
