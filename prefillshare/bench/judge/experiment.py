"""How consistent is a judge with its own prefill, and how consistent on a shared cache?

A judge is trained with its own prefill and another on the base's cache, from the same
data in the same order; the first is also put on the base's cache as it is (naive
sharing), and one more may be trained on a tuned module's. Two trainings differ in some
verdicts whatever they read, so a judge with its own prefill and another seed says how
many flips mean nothing. The base without fine-tuning says what training was worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from accelerate import Accelerator
from pydantic import Field, model_validator

from prefillshare.config import Config
from prefillshare.evals.consistency import (
    judge_consistency,
    judge_verdicts,
    judged,
    more_flips,
)
from prefillshare.report import progress, say
from prefillshare.tasks.base import Unit
from prefillshare.tasks.casefile import JUDGE
from prefillshare.training.decoders import decoder_run, scheme_of
from prefillshare.training.metrics import StepLog
from prefillshare.training.settings import CaseFiles, TrainSettings
from prefillshare.training.workshop import Workshop

Prefill = Literal["own", "shared"]
# A judge is near chance, half of the verdicts right, unless the 95 % interval of its
# accuracy lies above this.
NEAR_CHANCE = 0.55
# By system, whose cache its judge is trained on.
_TRAINED: dict[str, Prefill] = {
    "own": "own",
    "shared": "shared",
    "tuned": "shared",
    "retrained": "own",
}


class JudgeSettings(Config):
    """The judges and the answers they judge.

    Attributes:
        model: the base; null is SmolLM2-135M-Instruct from its package.
        module: a prefill module that was tuned to be read, for the judge `tuned`.
        decoder: how all judges are trained: keys of `TrainSettings`.
        control_seed: of the judge that is trained again; null leaves it out.
    """

    model: Path | None = None
    module: Path | None = None
    output: Path = Path("runs/judge")
    decoder: dict[str, Any] = {}
    train: CaseFiles
    test: CaseFiles
    control_seed: int | None = Field(1, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for key, task in (("train", self.train), ("test", self.test)):
            if task.agent != JUDGE.name:
                raise ValueError(
                    f"`{key}` has the agent {task.agent!r}; judges need 'judge'"
                )
        seed = self.training("own", Path()).seed
        if self.control_seed == seed:
            raise ValueError(
                f"`control_seed` {seed} is the seed of the other judges; choose another"
            )
        return self

    def systems(self) -> list[str]:
        """The judges to train."""
        left_out = {
            "retrained": self.control_seed is None,
            "tuned": self.module is None,
        }
        return [name for name in _TRAINED if not left_out.get(name)]

    def training(self, system: str, model: Path) -> TrainSettings:
        """How the judge of `system` is trained from the model directory `model`."""
        fields: dict[str, Any] = {
            **self.decoder,
            "model": self.module if system == "tuned" else model,
            "output": self.output / system,
            "task": self.train.model_dump(),
            "prefill": _TRAINED[system],
            # Every figure of a run comes from that run.
            "resume": False,
        }
        if system == "retrained":
            fields["seed"] = self.control_seed
        return TrainSettings.model_validate(fields)


def run_judge(settings: JudgeSettings, model: Path) -> dict[str, Any]:
    """The whole experiment; returns its figures."""
    units = settings.test.task().units("test")
    verdicts = {"base": _untrained(settings.training("own", model), units)}
    losses: dict[str, float] = {}
    for system in settings.systems():
        said, losses[system] = _train(system, settings.training(system, model), units)
        verdicts |= said
    asked = judged(units)
    systems = judge_consistency(asked, verdicts, "own")
    for name, figures in systems.items():
        say(
            f"{name}: {figures.accuracy.mean:.0%} right; "
            f"{figures.order_consistency.mean:.0%} of pairs: the same answer chosen "
            f"in both orders; {figures.flips.mean:.0%} of the verdicts flipped"
        )
    more = {
        name: vars(more_flips(asked, verdicts, "own", name, "retrained"))
        for name in ("naive", "shared", "tuned")
        if {name, "retrained"} <= verdicts.keys()
    }
    return {
        "near_chance": [
            name
            for name, each in systems.items()
            if is_near_chance(vars(each.accuracy))
        ],
        "more_flips": more,
        "systems": {name: each.summary() for name, each in systems.items()},
        "verdicts": {name: list(said) for name, said in verdicts.items()},
        "last_loss": losses,
        "samples": len(asked),
        "pairs": len(asked) // 2,
        "contexts": len(units),
    }


def is_near_chance(accuracy: Mapping[str, float]) -> bool:
    """Whether a judge may as well be guessing, by the interval of its accuracy."""
    return accuracy["low"] <= NEAR_CHANCE


def _untrained(training: TrainSettings, units: list[Unit]) -> tuple[str, ...]:
    """The verdicts of the base, asked as the judge of `training` is."""
    workshop = Workshop.open(training, Accelerator().device)
    scheme = scheme_of(training, workshop.base, None)
    return judge_verdicts(scheme, workshop.base, workshop.tokenisation, units)


def _train(
    system: str, training: TrainSettings, units: list[Unit]
) -> tuple[dict[str, tuple[str, ...]], float]:
    """The verdicts of a judge trained now, by what it reads, and its last loss."""
    experiment, trainer = decoder_run(training)
    losses: list[float] = []
    with progress(f"judge, {system}", trainer.settings.steps) as tick:

        def show(entry: StepLog) -> None:
            losses.append(entry.loss)
            tick(f"loss {entry.loss:.3f}")

        trainer.run(show)
    readings = {system: training.prefill}
    if system == "own":
        readings["naive"] = "shared"
    (judge,) = experiment.decoders
    judge.model.eval()
    verdicts = {}
    for name, prefill in readings.items():
        seen_as = training.model_copy(update={"prefill": prefill})
        scheme = scheme_of(seen_as, experiment.base, None)
        tokenisation = experiment.workshop.tokenisation
        verdicts[name] = judge_verdicts(scheme, judge.model, tokenisation, units)
    return verdicts, losses[-1]
