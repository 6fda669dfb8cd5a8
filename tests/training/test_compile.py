"""Compiled training: the same weights as uncompiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prefillshare.errors import ConfigError
from prefillshare.models.tiny import save_tiny_model
from prefillshare.training.decoders import decoder_trainer
from prefillshare.training.settings import (
    BatchSettings,
    CaseFiles,
    LoraSettings,
    TrainSettings,
)


def weights_of(settings: TrainSettings) -> dict[str, torch.Tensor]:
    trainer = decoder_trainer(settings)
    trainer.run(lambda _: None)
    (learner,) = trainer.experiment.learners
    return {name: value.detach() for name, value in learner.trained.items()}


def run_settings(model: Path, output: Path, **changes: Any) -> TrainSettings:
    task = CaseFiles(agent="shipping", contexts=6, records=3, questions=2)
    fields: dict[str, Any] = {
        "steps": 4,
        "optimizer": "sgd",
        "learning_rate": 0.05,
        "dtype": "float64",
        "batch": BatchSettings(units=2),
        "lora": LoraSettings(rank=2, alpha=4),
    }
    return TrainSettings(model=model, output=output, task=task, **fields | changes)


def test_a_compiled_run_ends_where_the_uncompiled_does(tmp_path: Path) -> None:
    """Four steps of SGD in fp64 on rows of different lengths: within 1e-8."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    counts = torch._dynamo.utils.counters["stats"]
    model = save_tiny_model(tmp_path / "model", layers=1, dtype=torch.float64)
    plain = run_settings(model, tmp_path / "plain")
    expected = weights_of(plain)
    assert counts["unique_graphs"] == 0
    how = {"compile": True, "compile_backend": "aot_eager"}
    found = weights_of(run_settings(model, tmp_path / "compiled", **how))
    assert counts["unique_graphs"] == 1, "one graph for rows of all lengths"
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-8)


def test_an_unknown_backend_is_refused(tiny_directory: Path, tmp_path: Path) -> None:
    settings = run_settings(
        tiny_directory, tmp_path, compile=True, compile_backend="indutcor"
    )
    with pytest.raises(ConfigError, match="no backend 'indutcor'; set `compile_back"):
        decoder_trainer(settings)
