"""Training state on disk: written whole or not at all, read without pickle's code."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError  # torch raises it; nothing is unpickled
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from prefillshare.errors import CheckpointError
from prefillshare.files import recovered, written_whole

_WEIGHTS = "adapter.safetensors"
_STATE = "state.pt"
_UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    SafetensorError,
    UnpicklingError,
)


def checkpoint_directory(output: Path) -> Path:
    """Where a run with that output keeps its checkpoint."""
    return output / "checkpoint"


def save_checkpoint(
    directory: Path, weights: dict[str, torch.Tensor], state: dict[str, Any]
) -> None:
    """Replace the checkpoint in `directory` atomically.

    Raises:
        CheckpointError: it could not be written (a full disk, say); what was there
            before is still there, and nothing half-written is left.
    """
    remedy = ": training resumes from the last whole checkpoint"
    with written_whole(directory, "checkpoint", remedy) as fresh:
        save_file(weights, fresh / _WEIGHTS)
        torch.save(state, fresh / _STATE)


def load_checkpoint(
    directory: Path,
) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """The weights and state saved in `directory`, or None if there are none.

    Raises:
        CheckpointError: a checkpoint is there but cannot be read.
    """
    if not recovered(directory):
        return None
    try:
        state: dict[str, Any] = torch.load(directory / _STATE, weights_only=True)
        return load_file(directory / _WEIGHTS), state
    except _UNREADABLE as error:
        raise CheckpointError(
            f"the checkpoint {directory} cannot be read: {error}; delete it to start "
            "over"
        ) from error


def random_states(accelerator: Accelerator) -> list[torch.Tensor]:
    """The states of torch's generators on all processes, `[P, bytes]` each.

    Every process has one for the CPU and, where it has an accelerator, one for that.
    """
    states = [torch.get_rng_state()]
    if accelerator.device.type == "cuda":
        states.append(torch.cuda.get_rng_state(accelerator.device))
    gathered = [accelerator.gather(s[None].to(accelerator.device)) for s in states]
    return [each.cpu() for each in gathered]


def set_random_states(accelerator: Accelerator, states: list[torch.Tensor]) -> None:
    """Take `random_states` back."""
    # A copy each: torch crashes on a state that is a slice of another tensor.
    own = [state[accelerator.process_index].clone() for state in states]
    torch.set_rng_state(own[0])
    if len(own) > 1 and accelerator.device.type == "cuda":
        torch.cuda.set_rng_state(own[1], accelerator.device)
