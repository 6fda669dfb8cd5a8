"""Smaller models out of one: fewer layers, or narrower feed-forward layers.

What is left keeps its weights, so that a decoder from it fits the cache of the whole
model (OverFill, arXiv 2508.08446, prunes widths by importance): layer for layer, or
what a bridge of kind `copy` passes on.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefillshare.errors import CheckpointError, DataError, UnsupportedModelError
from prefillshare.files import written_whole
from prefillshare.kv.identity import ModelId
from prefillshare.models.loading import load_model, require_model_directory

RECORD_FILE = "pruned.json"
_READ_TOKENS = 4096


@dataclass(frozen=True)
class Pruned:
    """What was kept of a model: kept beside the smaller one's weights.

    Attributes:
        model_id: digest of the whole model.
        layers: numbers of the layers that are left, in order.
        ffn: width of the feed-forward layers that are left.
    """

    model_id: str
    layers: tuple[int, ...]
    ffn: int

    @classmethod
    def load(cls, directory: Path) -> Self | None:
        """The record in a model's directory; None if it was not pruned.

        Raises:
            CheckpointError: it is damaged.
        """
        path = directory / RECORD_FILE
        if not path.exists():
            return None
        try:
            fields = json.loads(path.read_text())
            return cls(**{**fields, "layers": tuple(fields["layers"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} is not what was kept of a model ({error}); prune it again"
            ) from error


def evenly(kept: int, layers: int) -> tuple[int, ...]:
    """`kept` of `layers` layers at equal distances, from the first to the last."""
    if not 2 <= kept <= layers:
        raise UnsupportedModelError(
            f"{kept} of {layers} layers cannot be kept; name 2 to {layers}"
        )
    return tuple(round(i * (layers - 1) / (kept - 1)) for i in range(kept))


def prune(
    source: Path,
    directory: Path,
    *,
    layers: int | None = None,
    ffn: int | None = None,
    text: str = "",
) -> Pruned:
    """Write a smaller model of that in `source` into `directory`, with its tokenizer.

    Layers are kept at equal distances. Of each feed-forward layer the `ffn` neurons are
    kept that move the residual stream most where the model reads `text`: by their mean
    absolute activation times the norm of their output weights. (By weights alone,
    SmolLM2-135M without a sixth of its neurons is worse than chance.)

    Args:
        text: up to 4,096 tokens of it are read; needed with `ffn`.

    Raises:
        UnsupportedModelError: its layers are not built like Llama's, or `layers` or
            `ffn` is more than there is.
        DataError: there is no text to read.
    """
    require_model_directory(source)
    model = load_model(source, torch.float32)
    stack = _layers(model)
    width = int(model.config.intermediate_size)
    kept = evenly(len(stack) if layers is None else layers, len(stack))
    wide = width if ffn is None else ffn
    if not 1 <= wide <= width:
        raise UnsupportedModelError(
            f"{wide} of {width} feed-forward neurons cannot be kept; name 1 to {width}"
        )
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    neurons = [torch.arange(width)] * len(stack)
    if wide < width:
        neurons = _strongest(model, tokenizer(text)["input_ids"], wide)
    small = _smaller_config(model.config, kept, wide)
    made = AutoModelForCausalLM.from_config(small, dtype=torch.float32)
    made.load_state_dict(_state(model, kept, neurons))
    record = Pruned(ModelId.from_directory(source).digest, kept, wide)
    with written_whole(directory, "model") as fresh:
        made.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        (fresh / RECORD_FILE).write_text(json.dumps(asdict(record), indent=2) + "\n")
    return record


def _layers(model: Any) -> Sequence[Any]:
    stack: Sequence[Any] = getattr(getattr(model, "model", None), "layers", ())
    if not stack or not all(map(_has_gated_ffn, stack)):
        raise UnsupportedModelError(
            f"{type(model).__name__} is not built of layers with a gated feed-forward "
            "layer each, as Llama's are; such models cannot be pruned here"
        )
    return stack


def _has_gated_ffn(layer: Any) -> bool:
    mlp = dict(layer.named_children()).get("mlp")
    names = {"gate_proj", "up_proj", "down_proj"}
    return mlp is not None and names <= set(dict(mlp.named_children()))


def _smaller_config(config: Any, kept: Sequence[int], wide: int) -> Any:
    small = copy.deepcopy(config)
    small.num_hidden_layers, small.intermediate_size = len(kept), wide
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        small.layer_types = [kinds[i] for i in kept]
    return small


def _state(
    model: Any, kept: Sequence[int], neurons: Sequence[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The smaller model's tensors."""
    state: dict[str, torch.Tensor] = {}
    places = {
        f"model.layers.{old}.": f"model.layers.{new}." for new, old in enumerate(kept)
    }
    for name, tensor in model.state_dict().items():
        head = ".".join(name.split(".")[:3]) + "."
        if not name.startswith("model.layers."):
            state[name] = tensor
        elif head in places:
            state[places[head] + name.removeprefix(head)] = tensor
    for new, old in enumerate(kept):
        mlp, left = model.model.layers[old].mlp, neurons[old]
        prefix = f"model.layers.{new}.mlp."
        for part in ("gate_proj", "up_proj"):
            state[f"{prefix}{part}.weight"] = getattr(mlp, part).weight[left]
        state[f"{prefix}down_proj.weight"] = mlp.down_proj.weight[:, left]
    return state


@torch.no_grad()
def _strongest(model: Any, ids: Sequence[int], wide: int) -> list[torch.Tensor]:
    """Of every layer the neurons to keep, in their order `[wide]`."""
    if not ids:
        raise DataError(
            "which feed-forward neurons matter is seen where the model reads a text; "
            "give one that is like what it will read"
        )
    found: list[torch.Tensor] = []

    def note(down: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(down, torch.nn.Linear)
        strength = inputs[0].flatten(0, -2).abs().mean(0) * down.weight.norm(dim=0)
        found.append(strength.topk(wide).indices.sort().values)

    hooks = [x.mlp.down_proj.register_forward_pre_hook(note) for x in _layers(model)]
    try:
        model(input_ids=torch.tensor([list(ids[:_READ_TOKENS])]), logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    return found
