"""A model in training, with its optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from prefillshare.training.objective import learning_rate_factor
from prefillshare.training.settings import RunSettings


@dataclass(frozen=True)
class Learner:
    """`trained` are the parameters that the optimizer moves, by name."""

    name: str
    model: Any
    trained: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(cls, name: str, model: Any, settings: RunSettings) -> Learner:
        """`model` with the optimizer that `settings` name."""
        if settings.gradient_checkpointing:
            checkpoint_activations(model)
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        rate, decay = settings.learning_rate, settings.weight_decay
        optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(trained.values(), lr=rate, weight_decay=decay)
            if settings.optimizer == "adamw"
            else torch.optim.SGD(trained.values(), lr=rate, weight_decay=decay)
        )
        return cls(name, model, trained, optimizer)

    def set_rate(self, step: int, settings: RunSettings) -> float:
        """Set and return the learning rate of `step`."""
        rate = settings.learning_rate * learning_rate_factor(
            step, warmup=settings.warmup_steps, steps=settings.steps
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def update(self, max_grad_norm: float) -> None:
        """One step along the gradients, which are then dropped."""
        torch.nn.utils.clip_grad_norm_(list(self.trained.values()), max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


def checkpoint_activations(model: Any) -> None:
    model.activation_checkpointing_enable({"use_reentrant": False})
    for module in model.modules():
        if hasattr(module, "_can_checkpoint_with_cache"):
            # Our caches only are read, so computing a layer twice is safe.
            module._can_checkpoint_with_cache = True
