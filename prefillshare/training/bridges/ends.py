"""The two models that a bridge joins, and the prompts that both read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from transformers import PreTrainedModel

from prefillshare.config import Config
from prefillshare.kv.identity import ModelId
from prefillshare.kv.layout import KVLayout
from prefillshare.models.bridge.bridge import Layers
from prefillshare.models.bridge.fit import FitSettings, Pair
from prefillshare.models.bridge.rotary import Rotary, rotaries_of
from prefillshare.models.bridge.spans import Alignment
from prefillshare.models.bridge.spec import CacheShape
from prefillshare.models.bridge.target import TargetTokens
from prefillshare.models.loading import embeddings_of, load_model
from prefillshare.models.prefill import PrefillModule
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
        tokens: of the decoder's to fit to; the last prompt is read whole.
        kind: `linear` and `gated` maps are fitted; `copy` passes layers on as they are,
            to a model that was pruned of the prefill module or is of its shape.
        recovered: a bridge is saved if it recovers this share at least of what own
            prefill gains over no context (`continuation.recovered`); null: any is.
        share: and if it has no more than this share of the decoder's parameters; null:
            however many.
        layers, nearest, ridge, rank, width, embeddings: see
            `models.bridge.fit.FitSettings`.
    """

    model: Path
    decoder_model: Path
    output: Path
    tasks: list[TaskSettings] = Field(min_length=1)
    tokens: int = Field(20_000, ge=1)
    boundary: Literal["last_token", "suffix"] = "last_token"
    dtype: Literal["float64", "float32", "bfloat16"] = "float32"
    layers: int = Field(2, ge=0)
    nearest: int = Field(8, ge=1)
    ridge: float = Field(0.01, ge=0.0)
    kind: Literal["copy", "linear", "gated"] = "linear"
    rank: int | None = Field(None, ge=1)
    width: int = Field(64, ge=1)
    embeddings: int = Field(0, ge=0)
    recovered: float | None = Field(0.2, lt=1.0)
    share: float | None = Field(0.05, gt=0.0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "copy" and self.embeddings:
            raise ValueError("`kind: copy` maps nothing; leave `embeddings` out")
        if not self.layers and not self.embeddings:
            raise ValueError("`layers: 0` leaves nothing to map; set `embeddings`")
        return self

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
            embeddings=self.embeddings,
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

    @property
    def table(self) -> torch.Tensor:
        """The target's embeddings `[V, E]`."""
        return embeddings_of(self.target)

    def caches(self, example: Example) -> Pair:
        """Both models' caches of an example's prompt up to the boundary."""
        source = example.prompt.source
        read = example.prefill_ids if source is None else source.token_ids
        return Pair(
            _layers(self._prefills[0], read),
            _layers(self._prefills[1], example.prefill_ids),
            TargetTokens.prompt(
                example.prefill_ids,
                None if source is None else Alignment.of(source.shares),
            ),
        )

    def prompts(self, tasks: Sequence[TaskSettings], split: Any) -> Iterator[Example]:
        """One example of each unit, the tasks in turn."""
        groups = [self.tokenisation.groups(build_task(task), split) for task in tasks]
        for i in range(max(map(len, groups))):
            for units in groups:
                if i < len(units):
                    yield units[i][0]


def _layers(module: PrefillModule, ids: Sequence[int]) -> Layers:
    return tuple((k[None], v[None]) for k, v in module.prefill(ids).layers)
