"""A run that is cut and resumed ends with the very bits of one that is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prefillshare.models.tiny import Architecture, save_tiny_model
from prefillshare.training.decoders import decoder_trainer
from prefillshare.training.metrics import StepLog
from prefillshare.training.readable import prefill_trainer
from prefillshare.training.settings import (
    CaseFiles,
    LoraSettings,
    PrefillSettings,
    TrainSettings,
)
from prefillshare.training.trainer import Trainer
from tests.architectures import HYBRID, SLIDING, WINDOW

STEPS, EVERY, CUT_AFTER = 6, 2, 3
TASKS = [
    CaseFiles(agent=agent, contexts=2, records=2, questions=1)
    for agent in ("shipping", "invoicing")
]
# AdamW and dropout, so that optimizers and generators are resumed too.
FIELDS: dict[str, Any] = {
    "dtype": "float64",
    "steps": STEPS,
    "checkpoint_every": EVERY,
    "learning_rate": 0.01,
    "lora": LoraSettings(rank=2, alpha=4, dropout=0.1),
}
# Of a run in a given folder, on a given model.
Start = Callable[[Path, Path], Trainer]


class Cut(Exception):
    """The run ends early."""


def decoders(**changes: Any) -> Start:
    """Runs that train decoders, by default one."""
    fields = {**FIELDS, "task": TASKS[0], **changes}
    return lambda model, output: decoder_trainer(
        TrainSettings(model=model, output=output, **fields)
    )


def module(mode: str) -> Start:
    """Runs that tune a prefill module."""
    fields = {**FIELDS, "tasks": TASKS, "mode": mode}
    return lambda model, output: prefill_trainer(
        PrefillSettings(model=model, output=output, **fields)
    )


def run(trainer: Trainer, cut_after: int | None = None) -> list[float]:
    """The losses, by step."""
    losses: list[float] = []

    def follow(entry: StepLog) -> None:
        losses.append(entry.loss)
        if entry.step == cut_after:
            raise Cut

    try:
        trainer.run(follow)
    except Cut:
        assert cut_after is not None
    return losses


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Those of everything that was trained."""
    return {
        f"{learner.name}/{name}": parameter.detach().clone()
        for learner in trainer.experiment.learners
        for name, parameter in learner.trained.items()
    }


def assert_falls_and_resumes(start: Start, model: Path, folder: Path) -> Trainer:
    """The trainer of an uninterrupted run, after the comparison."""
    uncut = start(model, folder / "uncut")
    begin = weights(uncut)
    losses = run(uncut)
    assert sum(losses[-2:]) < sum(losses[:2])
    assert run(start(model, folder / "cut"), CUT_AFTER) == losses[:CUT_AFTER]
    resumed = start(model, folder / "cut")
    assert run(resumed) == losses[EVERY:]
    ended, expected = weights(resumed), weights(uncut)
    assert ended.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(ended[name], tensor), name
    # Not all: of a jointly tuned module, only what its keys and values depend on.
    moved = {n.split("/")[0] for n in begin if not torch.equal(begin[n], expected[n])}
    assert moved == {learner.name for learner in uncut.experiment.learners}
    return uncut


RUNS: dict[str, Start] = {
    "lora": decoders(),
    "full": decoders(method="full", learning_rate=1e-3),
    "several decoders": decoders(task=None, tasks=TASKS),
    "mixture": module("mixture"),
    "joint": module("joint"),
}


@pytest.mark.parametrize("kind", RUNS)
def test_every_kind_of_run_resumes(
    tiny_directory: Path, tmp_path: Path, kind: str
) -> None:
    trainer = assert_falls_and_resumes(RUNS[kind], tiny_directory, tmp_path)
    learners = {"several decoders": 2, "joint": 3}
    assert len(trainer.experiment.learners) == learners.get(kind, 1)
    log = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert len(log) == STEPS


@pytest.fixture(scope="module")
def directory_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Saved fp64 models, by architecture."""
    made: dict[str, Path] = {}

    def of(architecture: Any) -> Path:
        if architecture not in made:
            made[architecture] = save_tiny_model(
                tmp_path_factory.mktemp(architecture),
                architecture=architecture,
                dtype=torch.float64,
                window=WINDOW,
            )
        return made[architecture]

    return of


@pytest.mark.parametrize("prefill", ["shared", "own"])
@pytest.mark.parametrize("architecture", [*SLIDING, *HYBRID])
def test_every_architecture_learns_and_resumes(
    directory_of: Callable[[str], Path],
    tmp_path: Path,
    architecture: Architecture,
    prefill: str,
) -> None:
    start = decoders(prefill=prefill)
    assert_falls_and_resumes(start, directory_of(architecture), tmp_path)
