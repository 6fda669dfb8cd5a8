"""Which layers of another model's cache does a tuned decoder not bear?

DroidSpeak's profiling (arXiv 2411.02820), for a decoder that was trained with its own
prefill: the loss with each single layer's keys and values taken from the base, and
the loss on the base's cache when one contiguous group of layers is computed anew.
Few layers matter, and they lie together, so one group is profiled and recomputed.

A group starts from the base's input to its first layer, which has to be shipped as
well: `width` numbers a token, where the keys and values that are not shipped save
`2 * kv_heads * head_dim` a token and layer. With few kv heads a small group can so
cost more bytes than it saves; `bytes_per_token` counts both. A group at layer 0
starts from the token ids instead.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from accelerate import Accelerator
from pydantic import Field

from prefillshare.config import Config
from prefillshare.errors import ConfigError, IdentityError, UnsupportedModelError
from prefillshare.evals.statistics import paired_difference
from prefillshare.kv.identity import ModelId
from prefillshare.kv.layout import KVLayout
from prefillshare.models.decoder import Decoder
from prefillshare.models.loading import (
    load_model,
    load_tokenizer,
    model_context_tokens,
)
from prefillshare.models.record import DecoderRecord
from prefillshare.training.data import Group, Tokenisation
from prefillshare.training.packing import Packed, pack
from prefillshare.training.padded import needs_one_by_one
from prefillshare.training.rows import prefill_row
from prefillshare.training.schemes.cached import Cached
from prefillshare.training.schemes.recompute import Recompute, prefill_with_inputs
from prefillshare.training.settings import TaskSettings, build_task

# Layers `first .. last - 1`.
Range = tuple[int, int]
# Per example, in nats per response token.
Nll = tuple[float, ...]


class SensitivitySettings(Config):
    """A decoder with its own prefill, and what it is profiled on.

    Attributes:
        own: the decoder's directory.
        task: its training split is read, never the test units.
        units: how many of that split's units, from the first.
        budget: the share of the layers that may be computed anew, rounded up.
    """

    model: Path
    own: Path
    task: TaskSettings
    units: int = Field(8, ge=1)
    budget: float = Field(0.11, gt=0.0, le=1.0)
    dtype: Literal["float64", "float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Profile:
    """The decoder's NLL on every mix of the two caches.

    Attributes:
        own, naive: on its own cache, on the base's.
        by_layer: on its own but for that layer, which is the base's.
        by_group: on the base's but for those layers, which are computed anew.
        context: the unit of each example.
    """

    own: Nll
    naive: Nll
    by_layer: tuple[Nll, ...]
    by_group: dict[Range, Nll]
    context: tuple[int, ...]

    @property
    def best(self) -> Range:
        """The group with the lowest loss; of equals, the first."""
        return min(self.by_group, key=lambda layers: fmean(self.by_group[layers]))

    def summary(self) -> dict[str, Any]:
        """Means, and increases over `own` with 95 % intervals over contexts."""
        return {
            "examples": len(self.own),
            "nll": {
                "own": fmean(self.own),
                "naive": fmean(self.naive),
                "best": fmean(self.by_group[self.best]),
            },
            "by_layer": [
                {"layer": layer, "increase": self._increase(nll)}
                for layer, nll in enumerate(self.by_layer)
            ],
            "by_group": [
                {"layers": list(layers), "increase": self._increase(nll)}
                for layers, nll in self.by_group.items()
            ],
            "best": list(self.best),
        }

    def _increase(self, nll: Nll) -> dict[str, float]:
        return dict(vars(paired_difference(nll, self.own, self.context)))


def budget_layers(budget: float, layers: int) -> int:
    """The share `budget` of `layers`, rounded up: at least one."""
    # A product that rounding put just above a whole number is that number.
    return max(1, math.ceil(budget * layers - 1e-9))


@torch.no_grad()
def profile(
    base: Any,
    decoder: Any,
    groups: Sequence[Group],
    size: int,
    on_unit: Callable[[int], object] | None = None,
) -> Profile:
    """Score `groups` with `decoder` on every mix of its cache and the base's.

    Args:
        size: layers in a contiguous group, at least 1.
        on_unit: called with the number of units done, after each.

    Raises:
        ConfigError: more layers than the model has.
        UnsupportedModelError: the model's layers keep recurrent states, which cannot
            be mixed.
    """
    if needs_one_by_one(base.config):
        raise UnsupportedModelError(
            f"a {base.config.model_type} model has recurrent layers, whose states are "
            "no keys and values; profile a model with attention alone"
        )
    layers = base.config.get_text_config().num_hidden_layers
    if not 1 <= size <= layers:
        raise ConfigError(f"a group has 1 to {layers} layers, got {size}")
    starts = range(layers - size + 1)
    schemes = {(i, i + size): Recompute(base, i, i + size) for i in starts}
    found: defaultdict[Any, list[float]] = defaultdict(list)
    for done, unit in enumerate(groups, 1):
        for mix, nll in _score(base, decoder, schemes, pack(unit)):
            found[mix] += nll
        if on_unit is not None:
            on_unit(done)
    return Profile(
        tuple(found["own"]),
        tuple(found["naive"]),
        tuple(tuple(found[layer]) for layer in range(layers)),
        {group: tuple(found[group]) for group in schemes},
        tuple(i for i, unit in enumerate(groups) for _ in unit),
    )


def _score(
    base: Any, decoder: Any, schemes: dict[Range, Recompute], packed: Packed
) -> Iterator[tuple[Any, list[float]]]:
    """Every mix and the examples' NLL on it; both models prefill once."""
    count = base.config.get_text_config().num_hidden_layers
    theirs, inputs = prefill_with_inputs(base, packed.prefill, range(count))
    mine = prefill_row(decoder, packed.prefill)
    mixes: dict[Any, Any] = {"own": mine, "naive": theirs}
    for layer in range(count):
        borrowed = theirs[layer : layer + 1]
        mixes[layer] = mine[:layer] + borrowed + mine[layer + 1 :]
    reader, every = Cached(base), range(len(packed.examples))
    for mix, cache in mixes.items():
        yield mix, reader.read(decoder, packed, every, cache).nll().tolist()
    for group, scheme in schemes.items():
        prefilled = theirs, inputs[group[0]]
        yield group, scheme.read(decoder, packed, every, prefilled).nll().tolist()


def bytes_per_token(config: Any, dtype: torch.dtype, layers: Range) -> dict[str, int]:
    """What the decoder's side is sent for a prompt token if it recomputes `layers`.

    Args:
        config: the base model's, of attention layers alone.
    """
    first, last = layers
    kept = KVLayout.from_config(config).layers
    shipped = kept[:first] + kept[last:]
    numbers = sum(2 * layer.kv_heads * layer.head_dim for layer in shipped)
    width = config.get_text_config().hidden_size if 0 < first < last else 0
    return {
        "keys_and_values": numbers * dtype.itemsize,
        "layer_input": width * dtype.itemsize,
    }


def run_sensitivity(
    settings: SensitivitySettings, say: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Profile the decoder; returns the figures.

    Raises:
        IdentityError: it belongs to another model or task, or prefills otherwise.
    """
    base_id, task = ModelId.from_directory(settings.model), build_task(settings.task)
    record = DecoderRecord.load(settings.own)
    record.require_base(base_id)
    record.require_prefill("own")
    record.require_task(task.name, task.suffix)
    dtype: torch.dtype = getattr(torch, settings.dtype)
    base = load_model(settings.model, dtype)
    torch.nn.Module.to(base, Accelerator().device)
    decoder = Decoder.load(settings.own, base, base_id).model
    tokenisation = Tokenisation(
        load_tokenizer(settings.model),
        record.boundary,
        model_context_tokens(settings.model),
    )
    groups = tokenisation.groups(task, "train")[: settings.units]
    layers = base.config.get_text_config().num_hidden_layers

    def tell(done: int) -> None:
        if say is not None:
            say(f"profiled {done} of {len(groups)} units")

    size = budget_layers(settings.budget, layers)
    found = profile(base, decoder, groups, size, tell)
    return {
        "task": task.name,
        "model_id": base_id.digest,
        "layers": layers,
        **found.summary(),
        "bytes_per_token": {
            "naive": bytes_per_token(base.config, dtype, (0, 0)),
            "best": bytes_per_token(base.config, dtype, found.best),
        },
    }


def profiled_layers(path: Path, task: str, base_id: ModelId) -> Range:
    """The best group in a file of figures that the profiling wrote.

    Raises:
        ConfigError: there is no such file.
        IdentityError: it is about another task or model.
    """
    try:
        results = json.loads(path.read_text())["results"]
        first, last = results["best"]
        about = results["task"], results["model_id"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} holds no profile ({getattr(error, 'strerror', None) or error!r}); "
            "write it with `prefillshare eval sensitivity --json`"
        ) from error
    if about[0] != task:
        raise IdentityError(
            f"{path} profiles a decoder of {about[0]!r}, not of {task!r}; name the "
            "profile of this task's decoder"
        )
    base_id.require(ModelId(about[1]), f"the profile {path}")
    return first, last
