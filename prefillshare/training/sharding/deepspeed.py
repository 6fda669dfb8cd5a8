"""Gradients and optimizer states split over all processes: DeepSpeed's ZeRO 1 and 2.

Models stay whole on every process, so any experiment runs whose every loss belongs to
one learner. DeepSpeed keeps the optimizer's copy of the weights in fp32 whatever the
run's `dtype` is (Rajbhandari et al., arXiv 1910.02054).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import DeepSpeedPlugin

from prefillshare.errors import ConfigError
from prefillshare.training.learner import Learner
from prefillshare.training.sharding.base import Tensors, Whole


class DeepSpeed(Whole):
    """One engine a learner."""

    name = "deepspeed"
    keeps_float32 = True

    def prepare(self, learners: Sequence[Learner], frozen: Sequence[Any]) -> None:
        """Hand every learner's optimizer to an engine."""
        deepspeed: Any = importlib.import_module("deepspeed")
        if self.device.type == "cpu":
            # Its shared-memory collectives would be compiled now; gloo does without.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        # On a CPU accelerate keeps no plugin; it is made of the same environment.
        plugin = self.accelerator.state.deepspeed_plugin or DeepSpeedPlugin()
        config = self._config(plugin.deepspeed_config)
        self._engines: dict[str, Any] = {}
        for learner in learners:
            engine, *_ = deepspeed.initialize(
                model=learner.model, optimizer=learner.optimizer, config=config
            )
            self._engines[learner.name] = engine

    def _config(self, given: dict[str, Any]) -> dict[str, Any]:
        stage = given["zero_optimization"]["stage"]
        if stage not in (1, 2):
            raise ConfigError(
                f"the accelerate configuration asks for ZeRO stage {stage}; set "
                "`zero_stage` to 1 or 2, or split the weights with FSDP2"
            )
        full = self.settings.method == "full"
        return {
            **given,
            "train_micro_batch_size_per_gpu": 1,
            "train_batch_size": self.accelerator.num_processes,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": self.settings.max_grad_norm,
            "bf16": {"enabled": full and self.settings.dtype == "bfloat16"},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        }

    def backward(self, learner: Learner, loss: torch.Tensor, *, last: bool) -> None:
        """DeepSpeed takes the mean over the processes, hence the factor."""
        engine = self._engines[learner.name]
        engine.set_gradient_accumulation_boundary(last)
        engine.backward(loss * self.accelerator.num_processes)

    def update(self, learner: Learner) -> float:
        """The engine clips, steps whatever the norm is, and drops the gradients."""
        engine = self._engines[learner.name]
        engine.step()
        return float(engine.get_global_grad_norm())

    def optimizer_state(self, learner: Learner) -> dict[str, Any]:
        """The parts of all processes, stacked by process `[P, ...]`."""
        zero = self._engines[learner.name].optimizer
        state: dict[str, Any] = zero.optimizer.state_dict()
        gather = self._gather
        state["state"] = {
            index: {name: gather(value) for name, value in each.items()}
            for index, each in state["state"].items()
        }
        state["master"] = [
            gather(part) for part in zero.single_partition_of_fp32_groups
        ]
        return state

    def restore(
        self, learner: Learner, weights: Tensors, optimizer: dict[str, Any]
    ) -> None:
        """Every process reads the checkpoint and keeps its parts."""
        rank = self.accelerator.process_index
        zero = self._engines[learner.name].optimizer
        for name, parameter in learner.trained.items():
            parameter.data.copy_(weights[name])
        master = optimizer.pop("master")
        for part, saved in zip(
            zero.single_partition_of_fp32_groups, master, strict=True
        ):
            part.data.copy_(saved[rank])
        for each in optimizer["state"].values():
            each.update({name: value[rank] for name, value in each.items()})
        zero.optimizer.load_state_dict(optimizer)

    def _gather(self, part: torch.Tensor) -> torch.Tensor:
        whole: torch.Tensor = self.accelerator.gather(part.detach()[None])
        return whole.cpu()
