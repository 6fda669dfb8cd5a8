"""What a strategy does for the training loop, and the one that splits nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator

from prefillshare.training.learner import Learner
from prefillshare.training.settings import RunSettings

Tensors = dict[str, torch.Tensor]


class Whole:
    """Every process holds whole models; gradients are summed over the processes.

    Other strategies replace what differs. All methods but `prepare` and `backward` are
    collective: every process calls them, in the same order.

    Attributes:
        name: recorded with checkpoints, which only the same strategy resumes.
        lockstep: a forward pass is collective too, so every process must make as many.
        keeps_float32: whether the optimizer has float32 copies of coarser weights.
    """

    name = "whole"
    lockstep = False
    keeps_float32 = False

    def __init__(self, accelerator: Accelerator, settings: RunSettings) -> None:
        self.accelerator, self.settings = accelerator, settings

    @property
    def device(self) -> torch.device:
        """Where models are loaded."""
        device: torch.device = self.accelerator.device
        return device

    def prepare(self, learners: Sequence[Learner], frozen: Sequence[Any]) -> None:
        """Split the models in place; `frozen` are only read."""

    def backward(self, learner: Learner, loss: torch.Tensor, *, last: bool) -> None:
        """Add the gradients of `loss`, the `last` of this step for `learner` or not.

        The losses of all processes and calls add up to what is minimised.
        """
        torch.autograd.backward(loss)

    def update(self, learner: Learner) -> float:
        """One optimizer step along the sum of all processes' gradients.

        Returns the norm of that sum. If it is not finite, the run has to end.
        """
        # By hand: the model runs several times a step, which a gradient-bucketing
        # wrapper does not allow.
        if self.accelerator.num_processes > 1:
            for parameter in learner.trained.values():
                if parameter.grad is not None:
                    parameter.grad = self.accelerator.reduce(parameter.grad, "sum")
        return learner.update(self.settings.max_grad_norm)

    def weights(self, learner: Learner) -> Tensors:
        """The trained parameters, whole, by name; empty but on the main process."""
        return {name: value.detach() for name, value in learner.trained.items()}

    def optimizer_state(self, learner: Learner) -> dict[str, Any]:
        """What `restore` takes, on the main process."""
        return learner.optimizer.state_dict()

    def restore(
        self, learner: Learner, weights: Tensors, optimizer: dict[str, Any]
    ) -> None:
        """Take `weights` and `optimizer_state` back."""
        for name, parameter in learner.trained.items():
            parameter.data.copy_(weights[name])
        learner.optimizer.load_state_dict(optimizer)

    def whole(self, learner: Learner) -> Any:
        """The model of `learner` to save, on the main process."""
        return learner.model
