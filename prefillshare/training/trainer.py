"""The training loop: steps, checkpoints, metrics. What is trained is an experiment."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from prefillshare.errors import CheckpointError, ConfigError, PrefillShareError
from prefillshare.training.checkpoint import (
    checkpoint_directory,
    load_checkpoint,
    random_states,
    save_checkpoint,
    set_random_states,
)
from prefillshare.training.data import Example, Group
from prefillshare.training.finite import FiniteGuard
from prefillshare.training.hub import publish, require_publishable
from prefillshare.training.learner import Learner, require_fine_weights
from prefillshare.training.metrics import MetricsLog, StepLog
from prefillshare.training.reporting import Tracking
from prefillshare.training.schedule import Schedule
from prefillshare.training.settings import FREE_SETTINGS, RunSettings
from prefillshare.training.sharding.base import Whole

Progress = Callable[[StepLog], None]


@dataclass(frozen=True)
class Loss:
    """Summed over `data`'s response tokens; `data` counts `Experiment.groups`.

    `learner` counts `Experiment.learners`: whose loss it is.
    """

    data: int
    learner: int
    value: torch.Tensor


class Experiment(Protocol):
    """What a run trains, on what, and what it leaves.

    Attributes:
        settings: the run's; the trainer puts the number of steps there that `epochs`
            come to.
    """

    settings: Any

    @property
    def groups(self) -> Sequence[Sequence[Group]]:
        """`groups[d]` are the units of data stream d: one decoder's data."""

    @property
    def learners(self) -> Sequence[Learner]:
        """What the optimizers move."""

    @property
    def frozen(self) -> Sequence[Any]:
        """Models that are read only."""

    @property
    def unsplittable(self) -> str | None:
        """Why its models must stay whole on every process, if they must."""

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share beside the settings."""

    def losses(self, examples: Sequence[Sequence[Example]]) -> Iterator[Loss]:
        """The losses of one pass over `examples[d]`, each backpropagated on its own."""

    def directories(self) -> list[Path]:
        """Where each result is saved."""

    def require_replaceable(self) -> None:
        """Raise unless the run may write its result where it would."""

    def adopt(self, models: Sequence[Any]) -> None:
        """Save `models[i]` as what learner i trained: the same, but whole."""

    def save(self) -> Path:
        """Write the result; returns its directory."""

    def close(self) -> None:
        """Let go of what the run held."""


class Trainer:
    """Runs one experiment."""

    def __init__(
        self,
        settings: RunSettings,
        experiment: Experiment,
        accelerator: Accelerator,
        strategy: Whole | None = None,
    ) -> None:
        """`strategy` says how models lie on the processes; by default whole.

        Raises:
            ConfigError: the experiment's models cannot be split, or are too coarse.
        """
        world = accelerator.num_processes
        settings = experiment.settings = _counted(settings, experiment.groups, world)
        self.settings = settings
        self.experiment = experiment
        self.accelerator = accelerator
        self._schedules = [
            Schedule(groups, settings.batch.units, world, settings.seed)
            for groups in experiment.groups
        ]
        self.step = 0
        self._finite = FiniteGuard(settings, accelerator)
        self._strategy = strategy or Whole(accelerator, settings)
        if self._strategy.name != Whole.name and experiment.unsplittable:
            raise ConfigError(
                f"{experiment.unsplittable}, so its models cannot be split by "
                f"{self._strategy.name}; launch without that accelerate configuration"
            )
        if not self._strategy.keeps_float32:
            require_fine_weights(experiment.learners)
        self._strategy.prepare(experiment.learners, experiment.frozen)

    def run(self, progress: Progress) -> Path:
        """Train to the last step and save; returns the result's directory.

        Raises:
            CheckpointError: state or result could not be written.
            PrefillShareError: a loss, a gradient or a weight is not finite.
        """
        try:
            with closing(self.experiment):
                return self._run(progress)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{self.settings.output} cannot be written: {error}; free space or "
                "choose another `output`, then start again: training resumes from the "
                "last whole checkpoint"
            ) from error

    def _run(self, progress: Progress) -> Path:
        settings = self.settings
        self.experiment.require_replaceable()
        if self._is_main:
            require_publishable(settings, self.experiment.directories())
        if settings.resume:
            self._resume()
        tracking = Tracking(settings, self.accelerator, self.step)
        with MetricsLog(settings.output, self.step, self._is_main) as log, tracking:
            while self.step < settings.steps:
                entry = self._train_step()
                log.write(entry)
                tracking.write(entry)
                progress(entry)
                if self.step % settings.checkpoint_every == 0:
                    self._checkpoint()
        self._finite.weights(self.experiment.learners, self.step)
        models = [self._strategy.whole(each) for each in self.experiment.learners]
        self.experiment.adopt(models)
        saved = self.experiment.save() if self._is_main else None
        self.accelerator.wait_for_everyone()
        if self._is_main:
            publish(settings, self.experiment.directories())
        return saved or settings.output

    @property
    def _is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def _train_step(self) -> StepLog:
        began = time.perf_counter()
        settings, rate = self.settings, 0.0
        for learner in self.experiment.learners:
            learner.model.train()
            rate = learner.set_rate(self.step, settings)
        tokens = [schedule.tokens(self.step) for schedule in self._schedules]
        # The losses, and last how many tokens were read.
        sums = torch.zeros(len(tokens) + 1, dtype=torch.float64)
        passes = self._passes()
        for i, examples in enumerate(passes, start=1):
            sums[-1] += sum(example.tokens for part in examples for example in part)
            for loss in self.experiment.losses(examples):
                # Means over the step's tokens, however they are cut into passes.
                mean = loss.value / tokens[loss.data]
                learner = self.experiment.learners[loss.learner]
                self._strategy.backward(learner, mean, last=i == len(passes))
                sums[loss.data] += mean.item()
        sums = self.accelerator.reduce(sums.to(self.accelerator.device), "sum")
        *losses, read = sums.tolist()
        self._update(losses)
        seconds = time.perf_counter() - began
        mean_loss = sum(losses) / len(losses)
        return StepLog(self.step, settings.steps, mean_loss, rate, seconds, int(read))

    def _update(self, losses: list[float]) -> None:
        """The optimizers' step, unless a number says that it would lead nowhere."""
        at = self.step + 1
        self._finite.losses(losses, at)
        for learner in self.experiment.learners:
            self._finite.gradient(self._strategy.update(learner), learner.name, at)
        self.step = at

    def _passes(self) -> list[list[list[Example]]]:
        """This process's examples of this step, by pass and data stream."""
        rank = self.accelerator.process_index
        units = [schedule.of(self.step, rank) for schedule in self._schedules]
        size = self.settings.batch.units_per_pass or self.settings.batch.units
        return [
            [
                [example for group in stream[first : first + size] for example in group]
                for stream in units
            ]
            for first in range(0, self.settings.batch.units, size)
        ]

    def _checkpoint(self) -> None:
        learners, strategy = self.experiment.learners, self._strategy
        self._finite.weights(learners, self.step)
        weights = {
            f"{learner.name}/{name}": tensor
            for learner in learners
            for name, tensor in strategy.weights(learner).items()
        }
        state = {
            "step": self.step,
            "optimizers": [strategy.optimizer_state(each) for each in learners],
            "rng": random_states(self.accelerator),
            "settings": self._resumable(),
        }
        if self._is_main:
            save_checkpoint(self._checkpoint_directory, weights, state)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        loaded = load_checkpoint(self._checkpoint_directory)
        if loaded is None:
            return
        weights, state = loaded
        self._require_same_run(json.loads(state["settings"]))
        learners = self.experiment.learners
        for learner, optimizer in zip(learners, state["optimizers"], strict=True):
            prefix = f"{learner.name}/"
            own = {n: weights[prefix + n] for n in learner.trained}
            self._strategy.restore(learner, own, optimizer)
        set_random_states(self.accelerator, state["rng"])
        self.step = state["step"]

    def _require_same_run(self, theirs: dict[str, Any]) -> None:
        mine = json.loads(self._resumable())
        if other := [key for key in mine if mine[key] != theirs.get(key)]:
            differences = ", ".join(
                f"{key} ({theirs.get(key)} there, {mine[key]} here)" for key in other
            )
            raise PrefillShareError(
                f"{self._checkpoint_directory} belongs to a run with other settings: "
                f"{differences}; set `resume: false` or another `output`"
            )

    @property
    def _checkpoint_directory(self) -> Path:
        return checkpoint_directory(self.settings.output)

    def _resumable(self) -> str:
        """What a resumed run must share: settings, and the base by its identity."""
        settings = self.settings.model_dump(mode="json", exclude=set(FREE_SETTINGS))
        world = {
            "processes": self.accelerator.num_processes,
            "sharding": self._strategy.name,
        }
        return json.dumps({**self.experiment.identity(), **settings, **world})


def _counted(
    settings: RunSettings, groups: Sequence[Sequence[Group]], world: int
) -> RunSettings:
    """`settings` with the steps that their `epochs` come to."""
    if settings.epochs is None:
        return settings
    units = settings.epochs * max(map(len, groups))
    steps = max(1, math.ceil(units / (settings.batch.units * world)))
    return settings.model_copy(update={"steps": steps})
