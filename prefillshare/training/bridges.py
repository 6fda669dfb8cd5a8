"""Fitting a bridge between two saved models on the prompts of tasks, and its health."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from transformers import PreTrainedModel

from prefillshare.config import Config
from prefillshare.errors import BridgeError
from prefillshare.kv.identity import ModelId
from prefillshare.kv.layout import KVLayout
from prefillshare.models.bridge.bridge import Bridge, BridgeSpec, CacheShape, Layers
from prefillshare.models.bridge.fit import FitSettings, Fitted, Pair, fit_bridge
from prefillshare.models.bridge.health import attention_cosine
from prefillshare.models.bridge.rotary import Rotary, rotaries_of
from prefillshare.models.bridge.spans import Alignment
from prefillshare.models.bridge.storage import load_bridge, save_bridge
from prefillshare.models.loading import load_model
from prefillshare.models.prefill import PrefillModule
from prefillshare.models.prune import Pruned
from prefillshare.training.data import Example, Tokenisation
from prefillshare.training.settings import TaskSettings, build_task
from prefillshare.training.workshop import tokenisation_of

Say = Callable[[str], None]


class BridgeSettings(Config):
    """Which models a bridge joins, and what it is fitted to.

    Attributes:
        model: the prefill module, whose cache is read.
        decoder_model: the model whose decoders read the bridged cache.
        output: where the bridge goes.
        tasks: the prompts of their training units are read by both models.
        tokens: at most so many of the decoder's tokens are fitted to.
        kind: `linear` and `gated` maps are fitted; `copy` passes layers on as they are,
            to a model that was pruned of the prefill module or is of its shape.
        layers, nearest, ridge, rank, width: see `models.bridge.fit.FitSettings`.
    """

    model: Path
    decoder_model: Path
    output: Path
    tasks: list[TaskSettings] = Field(min_length=1)
    tokens: int = Field(20_000, ge=1)
    boundary: Literal["last_token", "suffix"] = "last_token"
    dtype: Literal["float64", "float32", "bfloat16"] = "float32"
    layers: int = Field(2, ge=1)
    nearest: int = Field(8, ge=1)
    ridge: float = Field(0.01, ge=0.0)
    kind: Literal["copy", "linear", "gated"] = "linear"
    rank: int | None = Field(None, ge=1)
    width: int = Field(64, ge=1)

    def fit(self) -> FitSettings:
        """How the maps are fitted."""
        assert self.kind != "copy", "nothing is fitted"
        return FitSettings(
            layers=self.layers,
            ridge=self.ridge,
            nearest=self.nearest,
            kind=self.kind,
            rank=self.rank,
            width=self.width,
        )


@dataclass(frozen=True)
class Ends:
    """Both models of a bridge, and how text becomes tokens of each."""

    source: PreTrainedModel
    target: PreTrainedModel
    ids: tuple[ModelId, ModelId]
    tokenisation: Tokenisation
    _prefills: tuple[PrefillModule, PrefillModule] = field(repr=False)

    @classmethod
    def open(cls, settings: BridgeSettings) -> Ends:
        """Load both."""
        directories = (settings.model, settings.decoder_model)
        dtype = getattr(torch, settings.dtype)
        source, target = (load_model(directory, dtype) for directory in directories)
        tokenisation = tokenisation_of(*directories, settings.boundary)
        first, second = map(ModelId.from_directory, directories)
        prefills = (PrefillModule(source), PrefillModule(target))
        return cls(source, target, (first, second), tokenisation, prefills)

    @property
    def shapes(self) -> tuple[CacheShape, CacheShape]:
        """Of both caches."""
        here, there = (
            CacheShape.of(KVLayout.from_config(model.config))
            for model in (self.source, self.target)
        )
        return here, there

    @property
    def rotaries(self) -> tuple[tuple[Rotary, ...], tuple[Rotary, ...]]:
        """Of every layer of both."""
        return rotaries_of(self.source), rotaries_of(self.target)

    def caches(self, example: Example) -> Pair:
        """Both models' caches of an example's prompt up to the boundary."""
        source = example.prompt.source
        read = example.prefill_ids if source is None else source.token_ids
        return Pair(
            _layers(self._prefills[0], read),
            _layers(self._prefills[1], example.prefill_ids),
            None if source is None else Alignment.of(source.shares),
        )

    def prompts(self, tasks: Sequence[TaskSettings], split: Any) -> Iterator[Example]:
        """One example of each unit, the tasks in turn."""
        groups = [self.tokenisation.groups(build_task(task), split) for task in tasks]
        for i in range(max(map(len, groups))):
            for units in groups:
                if i < len(units):
                    yield units[i][0]


def fit(settings: BridgeSettings, say: Say) -> dict[str, Any]:
    """Fit a bridge and save it; returns what it came to.

    Raises:
        BridgeError: the models' caches cannot be mapped, or there is too little text.
    """
    ends = Ends.open(settings)
    began = time.perf_counter()
    fitted = _copied(ends, settings) if settings.kind == "copy" else None
    fitted = fitted or fit_bridge(
        _pairs(ends, settings, say), ends.shapes, ends.rotaries, settings.fit()
    )
    seconds = time.perf_counter() - began
    bridge = fitted.bridge
    torch.nn.Module.to(bridge, getattr(torch, settings.dtype))
    save_bridge(bridge, settings.output, ends.ids)
    say(f"saved {settings.output}: {bridge.parameter_count:,} parameters")
    return {
        "bridge": str(settings.output),
        "bridge_parameters": bridge.parameter_count,
        "decoder_parameters": sum(p.numel() for p in ends.target.parameters()),
        "fit_seconds": seconds,
        "tokens": fitted.examples,
        "sources": [list(layers) for layers in bridge.spec.sources],
        "explained": {"keys": list(fitted.keys), "values": list(fitted.values)},
    }


def _copied(ends: Ends, settings: BridgeSettings) -> Fitted:
    """Layer for layer, or from those layers that the smaller model kept."""
    pruned = Pruned.load(settings.decoder_model)
    if pruned is not None:
        ends.ids[0].require(ModelId(pruned.model_id), str(settings.decoder_model))
    source, target = ends.shapes
    layers = pruned.layers if pruned else range(target.layers)
    if pruned is None and source.layers != target.layers:
        raise BridgeError(
            f"kind `copy` cannot say which of {source.layers} layers the decoder's "
            f"{target.layers} are: {settings.decoder_model} was not pruned by "
            "`prefillshare init --prune`; use `linear`"
        )
    spec = BridgeSpec(source, target, tuple((layer,) for layer in layers))
    return Fitted(Bridge(spec, *ends.rotaries), (), (), 0)


def inspect(settings: BridgeSettings, say: Say, prompts: int = 8) -> dict[str, Any]:
    """The attention-output cosine of a saved bridge on test prompts.

    Returns `cosine`: by layer, by query head, and over all.

    Raises:
        IdentityError: the bridge joins other models.
    """
    ends = Ends.open(settings)
    bridge = load_bridge(settings.output, ends.ids)
    rows = []
    for i, example in enumerate(ends.prompts(settings.tasks, "test")):
        if i == prompts:
            break
        pair = ends.caches(example)
        ids = (*example.prompt.token_ids, *example.response)
        rows.append(attention_cosine(ends.target, ids, bridged(bridge, pair)))
        say(f"prompt {i + 1}: cosine {float(rows[-1].mean()):.3f}")
    cosine = torch.stack(rows).mean(0)
    return {
        "cosine": {
            "layers": cosine.mean(1).tolist(),
            "heads": cosine.tolist(),
            "all": float(cosine.mean()),
        },
        "prompts": len(rows),
    }


@torch.no_grad()
def bridged(bridge: Bridge, pair: Pair) -> Layers:
    """What `bridge` makes of the source's cache, in the target's tokens."""
    here, there = (torch.arange(x[0][0].shape[2]) for x in (pair.source, pair.target))
    layers: Layers = bridge(pair.source, here, pair.alignment, there)
    return layers


def _pairs(ends: Ends, settings: BridgeSettings, say: Say) -> Iterator[Pair]:
    read, told = 0, 0
    for example in ends.prompts(settings.tasks, "train"):
        yield ends.caches(example)
        read += example.prompt.boundary
        if read - told >= 5_000:
            told = read
            say(f"read {read:,} of {settings.tokens:,} tokens")
        if read >= settings.tokens:
            return


def _layers(module: PrefillModule, ids: Sequence[int]) -> Layers:
    return tuple((k[None], v[None]) for k, v in module.prefill(ids).layers)
