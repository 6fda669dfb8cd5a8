"""The experiment that tunes a prefill module to be read.

A base model as it comes writes a cache that a decoder finds hard to look things up
in. Here the module is trained once, on tasks that need look-ups, and then frozen: it
becomes a model directory with an identity of its own, on which any number of new
decoders for other tasks are trained.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from prefillshare.errors import (
    CheckpointError,
    PrefillShareError,
    UnsupportedModelError,
)
from prefillshare.kv.identity import ModelId
from prefillshare.models.decoder import Decoder
from prefillshare.models.loading import load_tokenizer
from prefillshare.training.card import write_decoder_card, write_module_card
from prefillshare.training.data import Example, Group
from prefillshare.training.learner import Learner
from prefillshare.training.packing import pack
from prefillshare.training.padded import OneByOne, needs_one_by_one
from prefillshare.training.schemes.base import Scheme, score
from prefillshare.training.schemes.cached import Cached
from prefillshare.training.schemes.one_row import Own
from prefillshare.training.settings import PrefillSettings, build_task
from prefillshare.training.sharding.choice import strategy_of
from prefillshare.training.trainer import Loss, Trainer
from prefillshare.training.workshop import Workshop


class PrefillExperiment:
    """Trains a prefill module: on a mixture by itself, or jointly with decoders."""

    def __init__(self, settings: PrefillSettings, device: torch.device) -> None:
        self.settings = settings
        self.workshop = workshop = Workshop.open(settings, device)
        self._alone: Scheme = Own()
        if needs_one_by_one(workshop.base.config):
            _require_mixture(settings)
            self._alone = OneByOne(None)
        tasks = [build_task(each) for each in settings.tasks]
        self.module = workshop.decoder("prefill", "", "own")
        self.learners = [Learner.of("prefill", self.module.model, settings)]
        self._readers: list[Decoder] = []
        # A mixture is one stream in which the tasks take turns by chance.
        self.groups = [workshop.groups(tasks)]
        if settings.mode == "joint":
            _require_distinct([task.name for task in tasks])
            self.groups = [workshop.groups([task]) for task in tasks]
            self._readers = [
                workshop.decoder(task.name, task.suffix, "shared") for task in tasks
            ]
            self.learners += [
                Learner.of(each.record.name, each.model, settings)
                for each in self._readers
            ]

    @property
    def frozen(self) -> list[Any]:
        """None: what is read is trained."""
        return []

    @property
    def unsplittable(self) -> str | None:
        """Examples one by one need whole models; a joint loss belongs to two."""
        if needs_one_by_one(self.workshop.base.config):
            return f"{self.settings.model} has recurrent layers"
        return "`mode: joint` is set" if self._readers else None

    def identity(self) -> dict[str, Any]:
        """The base by its digest."""
        return {"model": self.workshop.model_id.digest}

    def losses(self, examples: Sequence[Sequence[Example]]) -> Iterator[Loss]:
        """Task by task, so that a pass never holds more than one task's activations."""
        for i, part in enumerate(examples):
            packed = pack(part)
            if self._readers:
                scheme = Cached(self.module.model, train_prefill=True)
                scores = score(scheme, self._readers[i].model, packed)
            else:
                scores = score(self._alone, self.module.model, packed)
            # Joint, it is the reader's; the module comes before the readers.
            yield Loss(i, i + 1 if self._readers else i, scores.loss_sum())

    @property
    def directory(self) -> Path:
        """Where the tuned module is saved."""
        return self.settings.output / "module"

    def directories(self) -> list[Path]:
        """The module's, then those of the decoders that were trained with it."""
        names = [each.record.name for each in self._readers]
        return [self.directory, *(self._directory_of(name) for name in names)]

    def _directory_of(self, name: str) -> Path:
        return self.settings.output / name / "decoder"

    def require_replaceable(self) -> None:
        """A module that decoders may have been trained on is never replaced."""
        if self.directory.exists():
            raise CheckpointError(
                f"{self.directory} holds a tuned prefill module already, and decoders "
                "belong to it; choose another `output`, or delete it"
            )
        for directory in self.directories()[1:]:
            if directory.exists():
                raise CheckpointError(
                    f"{directory} holds a decoder already, of another module than is "
                    "trained here; choose another `output`, or delete it"
                )

    def save(self) -> Path:
        """Write the module, and decoders trained with it, with their cards.

        The module is a model directory, its adapter merged. It comes last: a run that
        is cut before has no module.

        Raises:
            CheckpointError: something could not be written; nothing is left of it.
        """
        fresh = self.directory.with_name("module.partial")
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            self._write_module(fresh)
            for reader, groups in zip(self._readers, self.groups, strict=False):
                self._save_reader(reader, groups, ModelId.from_directory(fresh))
            fresh.rename(self.directory)
        except (OSError, SafetensorError, CheckpointError) as error:
            for each in (fresh, *self.directories()[1:]):
                shutil.rmtree(each, ignore_errors=True)
            raise CheckpointError(
                f"the prefill module {self.directory} could not be written: {error}; "
                "free space, then start again: training resumes from the last whole "
                "checkpoint"
            ) from error
        return self.directory

    def _write_module(self, directory: Path) -> None:
        self._whole(self.module.model).save_pretrained(str(directory))
        load_tokenizer(self.settings.model).save_pretrained(str(directory))
        names = [each.record.name for each in self._readers] or ["all tasks"]
        data = dict(zip(names, self.groups, strict=True))
        write_module_card(directory, self.settings, data, self.workshop.base.device)

    def _save_reader(
        self, reader: Decoder, groups: Sequence[Group], module: ModelId
    ) -> None:
        """As whole weights: its adapter was trained on the base, not on the module."""
        record = replace(reader.record, model_id=module.digest)
        directory = self._directory_of(record.name)
        Decoder(self._whole(reader.model), record).save(directory)
        data, device = {record.name: groups}, self.workshop.base.device
        write_decoder_card(directory, record, self.settings, data, device)

    def _whole(self, model: Any) -> Any:
        """`model` without an adapter."""
        if self.settings.method == "full":
            return model
        # Merging changes the base's weights, which the other models read too.
        own = copy.deepcopy(model) if self._readers else model
        return own.merge_and_unload()

    def adopt(self, models: Sequence[Any]) -> None:
        """The module's model, then the decoders'."""
        for decoder, model in zip((self.module, *self._readers), models, strict=True):
            decoder.model = model

    def close(self) -> None:
        """Nothing is held."""


def _require_mixture(settings: PrefillSettings) -> None:
    """Raise unless a recurrent module can be tuned with `settings`."""
    if settings.mode == "joint" or settings.gradient_checkpointing:
        asked = "mode: joint" if settings.mode == "joint" else "gradient_checkpointing"
        raise UnsupportedModelError(
            f"{settings.model} has recurrent layers, whose state is neither trained "
            f"through nor computed twice: `{asked}` needs that; use `mode: mixture` "
            "without checkpointing"
        )


def _require_distinct(names: Sequence[str]) -> None:
    taken = ["prefill", "module", *names]
    if len(set(taken)) < len(taken):
        raise PrefillShareError(
            f"the tasks are named {', '.join(names)}; give each its own name, other "
            "than `prefill` and `module`: decoders are saved by it"
        )


def prefill_trainer(settings: PrefillSettings) -> Trainer:
    """A trainer for the prefill module of `settings`."""
    strategy = strategy_of(settings)
    experiment = PrefillExperiment(settings, strategy.device)
    return Trainer(settings, experiment, strategy.accelerator, strategy)
