"""What a step does with its settings: how it is cut, clipped and decayed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from prefillshare.training.data import Example
from prefillshare.training.decoders import decoder_trainer
from prefillshare.training.settings import BatchSettings, CaseFiles, TrainSettings
from prefillshare.training.trainer import Loss, Trainer


def trainer_of(directory: Path, output: Path, **changes: Any) -> Trainer:
    """One step of plain SGD in fp64, unless changed."""
    settings = TrainSettings(
        model=directory,
        output=output,
        task=CaseFiles(agent="shipping", contexts=4, records=3, questions=2),
        dtype="float64",
        optimizer="sgd",
        steps=1,
        learning_rate=0.5,
        warmup_steps=0,
        weight_decay=0.0,
    )
    return decoder_trainer(settings.model_copy(update=changes))


def one_step(trainer: Trainer) -> tuple[float, torch.Tensor, torch.Tensor]:
    """The step's learning rate, and all trained weights before and after."""
    trained = trainer.experiment.learners[0].trained
    rates: list[float] = []
    before = torch.nn.utils.parameters_to_vector(trained.values()).detach()
    trainer.run(lambda entry: rates.append(entry.learning_rate))
    after = torch.nn.utils.parameters_to_vector(trained.values()).detach()
    return rates[0], before, after


@pytest.mark.parametrize(("per_pass", "sizes"), [(1, [2] * 4), (2, [4] * 2), (0, [8])])
def test_a_step_is_cut_into_passes(
    tiny_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    per_pass: int,
    sizes: list[int],
) -> None:
    """Four units of two examples."""
    batch = BatchSettings(units=4, units_per_pass=per_pass or None)
    trainer = trainer_of(tiny_directory, tmp_path, batch=batch)
    losses, passes = trainer.experiment.losses, list[int]()

    def counted(examples: Sequence[Sequence[Example]]) -> Iterator[Loss]:
        passes.append(sum(len(part) for part in examples))
        return losses(examples)

    monkeypatch.setattr(trainer.experiment, "losses", counted)
    trainer.run(lambda _: None)
    assert passes == sizes


def test_gradients_are_clipped_to_the_norm(
    tiny_directory: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(tiny_directory, tmp_path, max_grad_norm=1e-3)
    rate, before, after = one_step(trainer)
    assert (after - before).norm().item() == pytest.approx(rate * 1e-3, rel=1e-2)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weights_decay(tiny_directory: Path, tmp_path: Path, optimizer: str) -> None:
    """Without any gradient nothing else moves them."""
    trainer = trainer_of(
        tiny_directory,
        tmp_path,
        optimizer=optimizer,
        max_grad_norm=0.0,
        weight_decay=0.25,
    )
    rate, before, after = one_step(trainer)
    assert rate > 0
    torch.testing.assert_close(after, before * (1 - rate * 0.25))
