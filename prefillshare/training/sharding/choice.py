"""Which strategy `accelerate launch` asked for."""

from __future__ import annotations

import os

from accelerate import Accelerator

from prefillshare.errors import ConfigError
from prefillshare.training.settings import RunSettings
from prefillshare.training.sharding.base import Whole


def strategy_of(settings: RunSettings) -> Whole:
    """The strategy of accelerate's configuration (`configs/accelerate`).

    Raises:
        ConfigError: the run, or its environment, cannot be split that way.
    """
    try:
        accelerator = Accelerator()
    except ImportError as error:
        raise ConfigError(
            f"{error}; `pip install -e '.[deepspeed]'`, or launch with another "
            "accelerate configuration"
        ) from error
    kind = _kind(accelerator)
    if kind is None:
        return Whole(accelerator, settings)
    if settings.compile:
        raise ConfigError(f"`compile` does not go with {kind}; set `compile: false`")
    if accelerator.mixed_precision != "no":
        raise ConfigError(
            f"the accelerate configuration sets `mixed_precision: "
            f"{accelerator.mixed_precision}`; set it to `no`: the run's `dtype` "
            f"({settings.dtype}) says what is computed in"
        )
    if kind == "FSDP":
        from prefillshare.training.sharding.fsdp2 import Fsdp2

        return Fsdp2(accelerator, settings)
    from prefillshare.training.sharding.deepspeed import DeepSpeed

    return DeepSpeed(accelerator, settings)


def _kind(accelerator: Accelerator) -> str | None:
    # Read off the environment: on CPUs accelerate names neither.
    if accelerator.num_processes == 1:
        return None
    for kind, variable in (("FSDP", "FSDP"), ("DeepSpeed", "DEEPSPEED")):
        if os.environ.get(f"ACCELERATE_USE_{variable}", "false").lower() == "true":
            return kind
    return None
