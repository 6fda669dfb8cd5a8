"""Parameters, gradients and optimizer states split over all processes: FSDP2.

Every layer of a model is a unit: its parameters are gathered for its forward and
backward passes only (torch.distributed.fsdp.fully_shard). `reshard_after_forward` and
`offload_params` are accelerate's settings.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from prefillshare.errors import ConfigError
from prefillshare.training.learner import Learner
from prefillshare.training.settings import RunSettings
from prefillshare.training.sharding.base import Tensors, Whole


class Fsdp2(Whole):
    """Splits trained and frozen models alike."""

    name = "fsdp2"
    lockstep = True

    def __init__(self, accelerator: Accelerator, settings: RunSettings) -> None:
        super().__init__(accelerator, settings)
        # Made of the launcher's environment: on a CPU accelerate keeps no plugin.
        plugin = FullyShardedDataParallelPlugin()
        if plugin.fsdp_version != 2:
            raise ConfigError(
                f"the accelerate configuration asks for FSDP {plugin.fsdp_version}; "
                "set `fsdp_version: 2` in its `fsdp_config`"
            )
        self._plugin = plugin
        self._hollow: dict[str, Any] = {}

    @property
    def device(self) -> torch.device:
        """The CPU: `fully_shard` moves each layer's part to the accelerator."""
        return torch.device("cpu")

    def prepare(self, learners: Sequence[Learner], frozen: Sequence[Any]) -> None:
        """Split all models; the optimizers are made anew over the parts."""
        for learner in learners:
            self._hollow[learner.name] = _hollow(learner.model)
        for model in (*frozen, *(learner.model for learner in learners)):
            self._shard(model)
        for learner in learners:
            learner.renew(self.settings)

    def _shard(self, model: Any) -> None:
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        device = self.accelerator.device.type
        how: dict[str, Any] = {
            "mesh": init_device_mesh(device, (self.accelerator.num_processes,)),
            "reshard_after_forward": self._plugin.reshard_after_forward,
        }
        if isinstance(self._plugin.cpu_offload, CPUOffloadPolicy):
            how["offload_policy"] = self._plugin.cpu_offload
        for layer in inner.base_model.layers:
            fully_shard(layer, **how)
        fully_shard(model, **how)
        for unit in model.modules():
            if isinstance(unit, FSDPModule):
                # The losses are parts of one mean already: their gradients add up.
                unit.set_gradient_divide_factor(1.0)
                unit.set_force_sum_reduction_for_comms(True)

    def update(self, learner: Learner) -> float:
        """The backward passes summed the gradients."""
        return learner.update(self.settings.max_grad_norm)

    def weights(self, learner: Learner) -> Tensors:
        """Gathered one by one, into the main process's memory."""
        return self._gathered(learner.trained)

    def optimizer_state(self, learner: Learner) -> dict[str, Any]:
        """As the optimizer of a whole model has it."""
        state = learner.optimizer.state_dict()
        state["state"] = {i: self._gathered(s) for i, s in state["state"].items()}
        return state

    def restore(
        self, learner: Learner, weights: Tensors, optimizer: dict[str, Any]
    ) -> None:
        """Every process reads the checkpoint and keeps its parts."""
        trained = list(learner.trained.items())
        for name, parameter in trained:
            parameter.data.copy_(_part(weights[name], parameter))
        for index, state in optimizer["state"].items():
            parameter = trained[index][1]
            for name, value in state.items():
                if value.shape == parameter.shape:
                    state[name] = _part(value, parameter)
        learner.optimizer.load_state_dict(optimizer)

    def whole(self, learner: Learner) -> Any:
        """An unsharded twin of the model, filled on the main process."""
        full = self._gathered(dict(learner.model.named_parameters()))
        twin = self._hollow[learner.name]
        for name, parameter in twin.named_parameters():
            if name in full:
                parameter.data = full[name]
        return twin

    def _gathered(self, tensors: dict[str, Any]) -> Tensors:
        return dict(self._each_gathered(tensors))

    def _each_gathered(self, tensors: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        for name, value in tensors.items():
            held = value.detach()
            if isinstance(held, DTensor):
                held = held.full_tensor()
            if self.accelerator.is_main_process:
                yield name, held.cpu()


def _part(value: torch.Tensor, like: torch.Tensor) -> DTensor:
    """This process's part of `value`, which all have whole, split as `like` is."""
    assert isinstance(like, DTensor)
    return distribute_tensor(
        value.to(like.device, like.dtype),
        like.device_mesh,
        like.placements,
        src_data_rank=None,
    )


def _hollow(model: Any) -> Any:
    """The same tree of modules with empty parameters."""
    kept: dict[int, Any] = {
        id(each): torch.nn.Parameter(each.new_empty(0), each.requires_grad)
        for each in model.parameters()
    }
    kept |= {id(each): each for each in model.buffers()}
    return copy.deepcopy(model, kept)
