"""A model in training, with its optimizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from prefillshare.errors import ConfigError
from prefillshare.training.attention import use_dense_attention
from prefillshare.training.schedule import learning_rate_factor
from prefillshare.training.settings import RunSettings


@dataclass
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
        if settings.compile:
            compile_layers(model, settings.compile_backend)
        trained = trained_parameters(model)
        return cls(name, model, trained, optimizer_over(trained, settings))

    def renew(self, settings: RunSettings) -> None:
        """A fresh optimizer, over the parameters that the model has by now."""
        self.trained = trained_parameters(self.model)
        self.optimizer = optimizer_over(self.trained, settings)

    def set_rate(self, step: int, settings: RunSettings) -> float:
        """Set and return the learning rate of `step`."""
        factor = learning_rate_factor(
            step, warmup=settings.warmup_steps, steps=settings.steps
        )
        rates = _by_rate(self.trained, settings)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = factor * rate
        return factor * settings.learning_rate

    def update(self, max_grad_norm: float) -> float:
        """One step along the gradients, which are then dropped; returns their norm.

        If that is not finite, there is no step.
        """
        parameters = list(self.trained.values())
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        # Of parameters that are split, so is the norm.
        value = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if math.isfinite(value):
            self.optimizer.step()
        self.optimizer.zero_grad()
        return value


def require_fine_weights(learners: Sequence[Learner]) -> None:
    """Raise `ConfigError` if weights are so coarse that updates would be rounded off.

    bfloat16 has a step of 0.4 % or more of a weight; fine-tuning moves most by less.
    """
    for learner in learners:
        kinds = {str(p.dtype) for p in learner.trained.values() if p.itemsize < 4}
        if kinds:
            raise ConfigError(
                f"{learner.name} would be trained in {', '.join(sorted(kinds))}, whose "
                "steps are coarser than most updates, so that most weights never move; "
                "set `dtype: float32` or `method: lora`, or launch with "
                "configs/accelerate/deepspeed.yaml, which keeps float32 copies"
            )


def trained_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """Those that have gradients, by name."""
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def optimizer_over(
    trained: dict[str, torch.nn.Parameter], settings: RunSettings
) -> torch.optim.Optimizer:
    """The optimizer that `settings` name."""
    rate, decay = settings.learning_rate, settings.weight_decay
    groups = [
        {"params": parameters, "lr": each}
        for each, parameters in _by_rate(trained, settings).items()
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, weight_decay=decay)
    return torch.optim.AdamW(groups, lr=rate, weight_decay=decay, fused=True)


def _by_rate(
    trained: dict[str, torch.nn.Parameter], settings: RunSettings
) -> dict[float, list[torch.nn.Parameter]]:
    """The parameters that learn at the same rate, in the order of the first of each."""
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in trained.items():
        groups.setdefault(settings.rate_of(name), []).append(parameter)
    return groups


def compile_layers(model: Any, backend: str) -> None:
    """Compile, in place, all of a causal language model but its output head.

    A row's pieces differ from step to step, and a compiled loop over them would be
    compiled anew each time: so the model goes over to dense masks.

    Raises:
        ConfigError: torch knows no such backend.
    """
    known = torch._dynamo.list_backends(exclude_tags=None)
    if backend not in known:
        raise ConfigError(
            f"torch.compile has no backend {backend!r}; set `compile_backend` to one "
            f"of {', '.join(known)}"
        )
    use_dense_attention(model.config.get_text_config())
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    inner.base_model.compile(backend=backend, dynamic=True)


def checkpoint_activations(model: Any) -> None:
    """Let each layer of `model` keep its input only, and be computed twice."""
    model.activation_checkpointing_enable({"use_reentrant": False})
    for module in model.modules():
        if hasattr(module, "_can_checkpoint_with_cache"):
            # Packed rows' caches give a layer the same the second time.
            module._can_checkpoint_with_cache = True
