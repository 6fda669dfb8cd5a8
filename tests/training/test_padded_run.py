"""A whole run on packed rows against one on padded rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from prefillshare.training.decoders import decoder_trainer
from prefillshare.training.objective import ResponseScores
from prefillshare.training.packing import Packed
from prefillshare.training.padded import score_padded
from prefillshare.training.settings import BatchSettings
from tests.training.test_trainer import (
    assert_equal_to,
    decoders_of,
    ignore,
    settings,
    weights_of,
)


class Padded:
    """Every example a row of its own, padded to the longest of the pass."""

    def __init__(self, base: Any) -> None:
        self._base = base

    def prefill(self, packed: Packed) -> None:
        """Nothing is shared."""

    def read(
        self, decoder: Any, packed: Packed, which: Sequence[int], prefilled: None
    ) -> ResponseScores:
        """Score the examples `which`."""
        return score_padded(self._base, decoder, [packed.examples[i] for i in which])


@pytest.mark.parametrize("method", ["lora", "full"])
def test_packed_rows_end_where_padded_ones_do(
    tiny_directory: Path, tmp_path: Path, method: str
) -> None:
    """20 steps of SGD in fp64."""
    fields: dict[str, Any] = {"steps": 20, "optimizer": "sgd", "learning_rate": 0.05}
    fields |= {"method": method, "batch": BatchSettings(units=2)}
    packed = weights_of(settings(tiny_directory, tmp_path / "packed", **fields))
    trainer = decoder_trainer(settings(tiny_directory, tmp_path / "padded", **fields))
    experiment = decoders_of(trainer)
    experiment.scheme = Padded(experiment.base)
    trainer.run(ignore)
    assert_equal_to(dict(trainer.experiment.learners[0].trained), packed, 1e-8)
