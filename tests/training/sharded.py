"""Runs on every process of a launch: several training runs, one after the other.

accelerate launch --config_file FILE tests/training/sharded.py RUNS.json RESULTS.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from prefillshare.errors import PrefillShareError
from prefillshare.training.decoders import decoder_trainer
from prefillshare.training.metrics import StepLog
from prefillshare.training.readable import prefill_trainer
from prefillshare.training.settings import PrefillSettings, TrainSettings
from prefillshare.training.trainer import Trainer
from tests.training.conftest import exact_norm


class Cut(Exception):
    """The run ends early, on all processes at the same step."""


def trainer_of(settings: dict[str, Any]) -> Trainer:
    """Decoders' trainer, or a prefill module's where `mode` is set."""
    if "mode" in settings:
        return prefill_trainer(PrefillSettings.model_validate(settings))
    return decoder_trainer(TrainSettings.model_validate(settings))


def held(trainer: Trainer) -> dict[str, float]:
    """The part of all parameters, and of the optimizers' numbers, that lies here."""
    experiment = trainer.experiment
    models = [*experiment.frozen, *(each.model for each in experiment.learners)]
    parameters = [p for model in models for p in model.parameters()]
    mine = [p.to_local() if isinstance(p, DTensor) else p for p in parameters]
    trained = [p for each in experiment.learners for p in each.trained.values()]
    moved = [
        p.to_local() if isinstance(p, DTensor) else p
        for each in experiment.learners
        for group in each.optimizer.param_groups
        for p in group["params"]
    ]
    return {
        "parameters": numbers(mine) / numbers(parameters),
        "optimizers": numbers(moved) / numbers(trained),
    }


def numbers(tensors: list[Any]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def result_of(settings: dict[str, Any], cut_after: int | None) -> dict[str, Any]:
    """Train; what came of it."""
    losses: list[float] = []

    def follow(entry: StepLog) -> None:
        losses.append(entry.loss)
        if entry.step == cut_after:
            raise Cut

    try:
        trainer = trainer_of(settings)
        parts = held(trainer)
        trainer.run(follow)
    except Cut:
        return {"losses": losses}
    except PrefillShareError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"losses": losses, "held": parts}


def main(argv: list[str]) -> int:
    """Train every run of the file `argv[0]`; the main process writes `argv[1]`."""
    torch.set_num_threads(1)
    setattr(LlamaRMSNorm, "forward", exact_norm)  # noqa: B010
    runs = json.loads(Path(argv[0]).read_text())
    results = [result_of(run["settings"], run.get("cut_after")) for run in runs]
    if torch.distributed.get_rank() == 0:
        Path(argv[1]).write_text(json.dumps(results))
    torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
