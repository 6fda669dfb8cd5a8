"""Numbers that overflow end a run before they are saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prefillshare.errors import ConfigError, PrefillShareError
from prefillshare.training.checkpoint import load_checkpoint
from prefillshare.training.decoders import decoder_trainer
from prefillshare.training.metrics import StepLog
from prefillshare.training.settings import TrainSettings
from tests.training.test_trainer import losses_of, settings, weights_of


def start(run: TrainSettings, overflow: str) -> None:
    """Train until numbers overflow: the gradient of step 5, or the weights of 6."""
    trainer = decoder_trainer(run)
    parameter = next(iter(trainer.experiment.learners[0].trained.values()))

    def spoil(entry: StepLog) -> None:
        if entry.step == 4 and overflow == "gradient":
            hook: Any = parameter.register_hook
            hook(lambda gradient: gradient + float("inf"))
        if entry.step == 5 and overflow == "weights":
            # The update of a finite gradient is not.
            group = trainer.experiment.learners[0].optimizer.param_groups[0]
            group["weight_decay"] = float("inf")

    trainer.run(spoil)


def test_without_a_checkpoint_none_is_spoken_of(
    tiny_directory: Path, tmp_path: Path
) -> None:
    run = settings(tiny_directory, tmp_path, checkpoint_every=6)
    with pytest.raises(PrefillShareError) as caught:
        start(run, "gradient")
    assert "at step 5; there is no checkpoint yet. Lower learning" in str(caught.value)
    assert str(caught.value).endswith("(now float64), and start over")
    # As it says: nothing else needs to be changed.
    assert len(losses_of(run.model_copy(update={"learning_rate": 1e-3}))) == 6


@pytest.mark.parametrize(
    ("overflow", "message"),
    [
        ("gradient", "gradient of shipping has norm (inf|nan) at step 5"),
        ("weights", "weights of shipping are not finite after step 6"),
    ],
)
@pytest.mark.parametrize("every", [3, 4])
def test_an_overflow_is_never_saved_and_the_advice_works(
    tiny_directory: Path, tmp_path: Path, overflow: str, message: str, every: int
) -> None:
    fields: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.05}
    run = settings(tiny_directory, tmp_path, checkpoint_every=every, **fields)
    with pytest.raises(PrefillShareError, match=message) as caught:
        start(run, overflow)
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert loaded is not None
    assert loaded[1]["step"] == every
    assert all(torch.isfinite(tensor).all() for tensor in loaded[0].values())
    assert not (tmp_path / "decoder").exists()
    assert "learning_rate (now 0.05)" in str(caught.value)
    lower = run.model_copy(update={"learning_rate": 0.01})
    with pytest.raises(PrefillShareError, match="set `resume: false` or another"):
        losses_of(lower)
    assert len(losses_of(lower.model_copy(update={"resume": False}))) == 6
    ended = weights_of(lower)
    assert all(torch.isfinite(tensor).all() for tensor in ended.values())


def test_weights_too_coarse_to_be_updated_are_not_trained(
    tiny_directory: Path, tmp_path: Path
) -> None:
    coarse = settings(tiny_directory, tmp_path, dtype="bfloat16")
    # An adapter has float32 weights of its own.
    assert len(losses_of(coarse.model_copy(update={"steps": 1}))) == 1
    said = "in torch.bfloat16, whose steps .* set `dtype: float32` or `method: lora`"
    with pytest.raises(ConfigError, match=said):
        losses_of(coarse.model_copy(update={"method": "full"}))
