"""The comparison set: who prefills, and who reads, for one task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator
from transformers import PreTrainedModel

from prefillshare.config import Config
from prefillshare.errors import IdentityError, UnsupportedModelError
from prefillshare.evals.sensitivity import Range, profiled_layers
from prefillshare.kv.identity import ModelId
from prefillshare.models.decoder import Decoder
from prefillshare.models.prompt import Boundary
from prefillshare.models.record import DecoderRecord, Prefill
from prefillshare.training.padded import OneByOne, needs_one_by_one
from prefillshare.training.prefixes import PrefixStore
from prefillshare.training.schemes.base import Scheme
from prefillshare.training.schemes.cached import Cached
from prefillshare.training.schemes.icarus import Icarus
from prefillshare.training.schemes.one_row import OnePass, Own
from prefillshare.training.schemes.recompute import Recompute
from prefillshare.training.settings import TaskSettings, build_task


class Recomputed(Config):
    """A decoder that was trained with these layers of the prompt computed anew."""

    layers: tuple[int, int]
    decoder: Path


class ComparedTask(Config):
    """One task's test units and the decoders trained for it; each may be left out.

    Attributes:
        own: scored with its own prefill (`full`), on the base's cache (`naive`) and,
            with `recompute`, with those layers of the prompt computed anew.
        shared: cache-conditioned; `shared_full` is another with all weights its own.
        alora: a cache-conditioned adapter, scored in one ordinary pass that switches
            it on at the boundary.
        recompute: layers `[first, last]` (exclusive), or the file of figures in which
            `prefillshare eval sensitivity` found them.
        recomputed: decoders trained on such a mix: `recomputed_FIRST_LAST`. Where
            `last` is the number of layers, the first `first` are shared.
        one_model: learned all tasks with its own prefill.
    """

    task: TaskSettings
    own: Path | None = None
    shared: Path | None = None
    shared_full: Path | None = None
    alora: Path | None = None
    icarus: Path | None = None
    one_model: Path | None = None
    recompute: tuple[int, int] | Path | None = None
    recomputed: list[Recomputed] = []

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.recompute is not None and self.own is None:
            raise ValueError("`recompute` is for the decoder in `own`; name that too")
        if not list(self.decoders()):
            raise ValueError("no decoder is named: set `shared`, `own` or another")
        return self

    def decoders(self) -> Iterator[tuple[Path, Prefill]]:
        """Every decoder's directory, and whose cache it must have been trained on."""
        named: list[tuple[Path | None, Prefill]] = [
            (self.own, "own"),
            (self.shared, "shared"),
            (self.shared_full, "shared"),
            (self.alora, "shared"),
            (self.icarus, "icarus"),
            (self.one_model, "own"),
            *((each.decoder, "recompute") for each in self.recomputed),
        ]
        return ((path, prefill) for path, prefill in named if path is not None)

    def recompute_layers(self, base_id: ModelId) -> Range:
        """`recompute`, out of its file if it is one."""
        if isinstance(self.recompute, Path):
            return profiled_layers(self.recompute, build_task(self.task).name, base_id)
        assert self.recompute is not None
        return self.recompute


@dataclass(frozen=True)
class System:
    """A pair under test, and whether the context is left out."""

    name: str
    scheme: Scheme
    decoder: Any
    floor: bool = False


def require_fitting(compared: ComparedTask, base_id: ModelId) -> Boundary:
    """The boundary that all decoders of `compared` have; reads no weights.

    Raises:
        IdentityError: one belongs to another model, task or prefill, or they have
            different boundaries.
    """
    task = build_task(compared.task)
    boundaries: dict[Boundary, Path] = {}
    for directory, prefill in compared.decoders():
        record = DecoderRecord.load(directory)
        record.require_base(base_id)
        record.require_prefill(prefill)
        if directory != compared.one_model:
            record.require_task(task.name, task.suffix)
        boundaries.setdefault(record.boundary, directory)
    if len(boundaries) > 1:
        places = " and ".join(f"{b} ({path})" for b, path in boundaries.items())
        raise IdentityError(
            f"the decoders for {task.name!r} have boundaries {places}; compare "
            "decoders with the same one"
        )
    return next(iter(boundaries))


def systems(
    compared: ComparedTask,
    base: PreTrainedModel,
    base_id: ModelId,
    store: PrefixStore | None = None,
) -> Iterator[System]:
    """What `compared` names, in turn: each decoder is loaded when it is due.

    Args:
        store: keeps the base's caches of the contexts that systems have in common.

    Raises:
        UnsupportedModelError: a scheme that mixes caches, on a recurrent model.
    """
    load = partial(Decoder.load, base=base, base_id=base_id)
    recurrent = needs_one_by_one(base.config)
    if recurrent:
        _refuse_mixes(compared, base.config.model_type)
    cached: Scheme = OneByOne(base) if recurrent else Cached(base, store)
    own: Scheme = OneByOne(None) if recurrent else Own()
    yield System("base", cached, base)
    if compared.own is not None:
        alone = load(compared.own).model
        yield System("full", own, alone)
        yield System("naive", cached, alone)
        if compared.recompute is not None:
            layers = compared.recompute_layers(base_id)
            yield System("recompute", Recompute(base, *layers), alone)
    if compared.shared is not None:
        shared = load(compared.shared).model
        yield System("shared", cached, shared)
        yield System("no_context", cached, shared, floor=True)
    if compared.shared_full is not None:
        yield System("shared_full", cached, load(compared.shared_full).model)
    if compared.alora is not None:
        # Every pass says where it switches the adapter on: any token enables that.
        yield System("alora", OnePass(), load(compared.alora, invocation=[0]).model)
    for each in compared.recomputed:
        name = "recomputed_{}_{}".format(*each.layers)
        yield System(name, Recompute(base, *each.layers), load(each.decoder).model)
    if compared.icarus is not None:
        yield System("icarus", Icarus(base, store), load(compared.icarus).model)
    if compared.one_model is not None:
        yield System("one_model", own, load(compared.one_model).model)


def _refuse_mixes(compared: ComparedTask, model_type: str) -> None:
    names: Sequence[str] = ("recompute", "recomputed", "alora", "icarus")
    if asked := [name for name in names if getattr(compared, name)]:
        raise UnsupportedModelError(
            f"{', '.join(asked)} cannot be had for a {model_type} model, whose "
            "recurrent layers keep no keys and values; leave them out"
        )
