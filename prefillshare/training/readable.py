"""The experiment that tunes a prefill module to be read.

A base model as it comes writes a cache that a decoder finds hard to look things up
in. Here the module is trained once, on tasks that need look-ups, and then frozen: it
becomes a model directory with an identity of its own, on which any number of new
decoders for other tasks are trained.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from prefillshare.errors import CheckpointError
from prefillshare.models.decoder import Decoder
from prefillshare.models.loading import load_tokenizer
from prefillshare.training.card import write_module_card
from prefillshare.training.data import Example
from prefillshare.training.decoders import Workshop
from prefillshare.training.learner import Learner
from prefillshare.training.packing import pack
from prefillshare.training.schemes.base import score
from prefillshare.training.schemes.cached import Cached
from prefillshare.training.schemes.one_row import Own
from prefillshare.training.settings import PrefillSettings, build_task
from prefillshare.training.sharding.choice import strategy_of
from prefillshare.training.trainer import Loss, Trainer


class PrefillExperiment:
    """Trains a prefill module: on a mixture by itself, or jointly with decoders."""

    def __init__(self, settings: PrefillSettings, device: torch.device) -> None:
        self.settings = settings
        self.workshop = workshop = Workshop.open(settings, device)
        tasks = [build_task(each) for each in settings.tasks]
        self.module = workshop.decoder("prefill", "", "own")
        self.learners = [Learner.of("prefill", self.module.model, settings)]
        self._readers: list[Decoder] = []
        # A mixture is one stream in which the tasks take turns by chance.
        self.groups = [workshop.groups(tasks)]
        if settings.mode == "joint":
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
        """A joint loss belongs to two models."""
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
                scores = score(Own(), self.module.model, packed)
            yield Loss(i, scores.loss_sum())

    @property
    def directory(self) -> Path:
        """Where the tuned module is saved."""
        return self.settings.output / "module"

    def directories(self) -> list[Path]:
        """The module's alone."""
        return [self.directory]

    def require_replaceable(self) -> None:
        """A module that decoders may have been trained on is never replaced."""
        if self.directory.exists():
            raise CheckpointError(
                f"{self.directory} holds a tuned prefill module already, and decoders "
                "belong to it; choose another `output`, or delete it"
            )

    def save(self) -> Path:
        """Write the module as a model directory, adapters merged, with its card."""
        fresh = self.directory.with_name("module.partial")
        shutil.rmtree(fresh, ignore_errors=True)
        model = self.module.model
        merged = model.merge_and_unload() if self.settings.method == "lora" else model
        merged.save_pretrained(str(fresh))
        load_tokenizer(self.settings.model).save_pretrained(str(fresh))
        names = [each.record.name for each in self._readers] or ["all tasks"]
        data = dict(zip(names, self.groups, strict=True))
        write_module_card(fresh, self.settings, data, self.workshop.base.device)
        fresh.rename(self.directory)
        return self.directory

    def adopt(self, models: Sequence[Any]) -> None:
        """The module's model."""
        self.module.model = models[0]

    def close(self) -> None:
        """Nothing is held."""


def prefill_trainer(settings: PrefillSettings) -> Trainer:
    """A trainer for the prefill module of `settings`."""
    strategy = strategy_of(settings)
    experiment = PrefillExperiment(settings, strategy.device)
    return Trainer(settings, experiment, strategy.accelerator, strategy)
