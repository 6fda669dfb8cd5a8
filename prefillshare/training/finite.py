"""A run whose numbers overflow ends, before any of them is saved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NoReturn

import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from prefillshare.errors import PrefillShareError
from prefillshare.training.checkpoint import checkpoint_directory
from prefillshare.training.learner import Learner
from prefillshare.training.settings import RunSettings


class FiniteGuard:
    """Raises `PrefillShareError` on what is not finite: on every process alike."""

    def __init__(self, settings: RunSettings, accelerator: Accelerator) -> None:
        self.settings, self.accelerator = settings, accelerator

    def losses(self, values: Sequence[float], step: int) -> None:
        """`values` are the losses of a step, over all processes."""
        if not all(map(math.isfinite, values)):
            self._end(f"the loss is {list(values)} at step {step}")

    def gradient(self, norm: float, name: str, step: int) -> None:
        """`norm` is that of learner `name`'s gradients, over all processes."""
        if not math.isfinite(norm):
            self._end(f"the gradient of {name} has norm {norm} at step {step}")

    def weights(self, learners: Sequence[Learner], step: int) -> None:
        """The trained weights after `step` steps; collective."""
        for learner in learners:
            bad = torch.tensor(_not_finite(learner), device=self.accelerator.device)
            if count := int(self.accelerator.reduce(bad, "sum")):
                self._end(
                    f"{count} weights of {learner.name} are not finite after step "
                    f"{step}"
                )

    def _end(self, fact: str) -> NoReturn:
        remedy = (
            f"Lower learning_rate (now {self.settings.learning_rate}) or use a wider "
            f"dtype (now {self.settings.dtype}), and start over"
        )
        if not checkpoint_directory(self.settings.output).exists():
            raise PrefillShareError(f"{fact}; there is no checkpoint yet. {remedy}")
        raise PrefillShareError(
            f"{fact}; the last checkpoint was written before that and is untouched. "
            f"{remedy} with `resume: false` or another `output`: a checkpoint is "
            "resumed with its own settings only"
        )


def _not_finite(learner: Learner) -> int:
    """How many of this process's numbers."""
    held = (p.to_local() if isinstance(p, DTensor) else p for p in _values(learner))
    return sum(int((~torch.isfinite(each)).sum()) for each in held)


def _values(learner: Learner) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in learner.trained.values()]
