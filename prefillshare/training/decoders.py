"""The experiment that trains decode modules: one, or several on the same prefills."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from prefillshare.errors import (
    PrefillShareError,
    UnsupportedModelError,
)
from prefillshare.models.bridge.storage import bridge_origin
from prefillshare.models.record import DecoderRecord
from prefillshare.training.card import write_decoder_card
from prefillshare.training.data import Example
from prefillshare.training.learner import Learner
from prefillshare.training.packing import Packed, pack
from prefillshare.training.padded import OneByOne, needs_one_by_one
from prefillshare.training.prefixes import PrefixStore
from prefillshare.training.schemes.base import Scheme
from prefillshare.training.schemes.bridged import Bridged
from prefillshare.training.schemes.cached import Cached
from prefillshare.training.schemes.icarus import Icarus
from prefillshare.training.schemes.one_row import OnePass, Own
from prefillshare.training.schemes.recompute import Recompute
from prefillshare.training.settings import (
    PrefixSettings,
    TrainSettings,
    build_task,
)
from prefillshare.training.sharding.choice import strategy_of
from prefillshare.training.trainer import Loss, Trainer
from prefillshare.training.workshop import Workshop


class DecoderExperiment:
    """Trains the decoders that `TrainSettings` describe."""

    def __init__(self, settings: TrainSettings, device: torch.device) -> None:
        self.settings = settings
        self.workshop = workshop = Workshop.open(settings, device)
        self.base = workshop.base
        self.store = PrefixStore(
            settings.prefixes.memory_bytes,
            settings.prefixes.disk_bytes,
            settings.output,
        )
        tasks = [build_task(each) for each in settings.every_task()]
        parts = [tasks] if settings.mixture else [[task] for task in tasks]
        self.groups = [workshop.groups(part) for part in parts]
        names = ["all"] if settings.mixture else [task.name for task in tasks]
        if len(set(names)) < len(names):
            raise PrefillShareError(
                f"the tasks are named {', '.join(names)}; give each its own name: "
                "decoders are saved by it"
            )
        suffixes = [""] if settings.mixture else [task.suffix for task in tasks]
        activated = settings.path == "one_pass"
        self.decoders = [
            workshop.decoder(name, suffix, settings.prefill, activated=activated)
            for name, suffix in zip(names, suffixes, strict=True)
        ]
        self.learners = [
            Learner.of(each.record.name, each.model, settings) for each in self.decoders
        ]
        self.scheme = scheme_of(settings, self.base, self.store)

    @property
    def frozen(self) -> list[PreTrainedModel]:
        """The base."""
        return [self.base]

    @property
    def unsplittable(self) -> str | None:
        """Examples one by one, and layers by themselves, need whole models."""
        if needs_one_by_one(self.base.config):
            return f"{self.settings.model} has recurrent layers"
        if self.settings.bridge is not None:
            return "`bridge` is set, which is read outside the decoder's layers"
        return "`prefill: recompute` is set" if self.settings.recompute else None

    def identity(self) -> dict[str, Any]:
        """The models by their digests, and the bridge by what it was made of."""
        shop, bridge = self.workshop, self.settings.bridge
        about: dict[str, Any] = {"model": shop.model_id.digest}
        if shop.weights_id is not None:
            about["decoder_model"] = shop.weights_id.digest
        if bridge is not None:
            about["bridge"] = bridge_origin(bridge)
        return about

    def losses(self, examples: Sequence[Sequence[Example]]) -> Iterator[Loss]:
        """One prefill for all decoders, then each decoder's loss."""
        # Decoders that prefill for themselves have no prompt in common.
        apart = self.settings.prefill == "own" or self.settings.path == "one_pass"
        if apart:
            for i, part in enumerate(examples):
                yield from self._read(pack(part), [range(len(part))], first=i)
            return
        bounds = [0]
        for part in examples:
            bounds.append(bounds[-1] + len(part))
        parts = [range(*ends) for ends in zip(bounds[:-1], bounds[1:], strict=True)]
        yield from self._read(pack([e for part in examples for e in part]), parts)

    def _read(
        self, packed: Packed, parts: Sequence[range], first: int = 0
    ) -> Iterator[Loss]:
        prefilled = self.scheme.prefill(packed)
        for i, which in enumerate(parts, start=first):
            model = self.decoders[i].model
            # The logits are let go of before the backward pass.
            loss = self.scheme.read(model, packed, which, prefilled).loss_sum()
            yield Loss(i, i, loss)

    def directories(self) -> list[Path]:
        """Where each decoder is saved."""
        output = self.settings.output
        if self.settings.task is not None or self.settings.mixture:
            return [output / "decoder"]
        return [output / each.record.name / "decoder" for each in self.decoders]

    def require_replaceable(self) -> None:
        """A finished decoder is replaced by one of its own kind only."""
        for decoder, directory in zip(self.decoders, self.directories(), strict=True):
            if not directory.exists():
                continue
            there, here = vars(DecoderRecord.load(directory)), vars(decoder.record)
            # A bridge is trained with its decoder: no two runs have the same.
            free = ("kv_formats", "bridge")
            other = [k for k in here if k not in free and there[k] != here[k]]
            if other:
                raise PrefillShareError(
                    f"{directory} holds a decoder whose {', '.join(other)} differ "
                    "from this run's; choose another `output`, or delete it"
                )

    def save(self) -> Path:
        """Write every decoder, with its card."""
        device = self.base.device
        results = zip(self.decoders, self.groups, self.directories(), strict=True)
        for decoder, groups, directory in results:
            decoder.save(directory)
            record, data = decoder.record, {decoder.record.name: groups}
            write_decoder_card(directory, record, self.settings, data, device)
        first, *more = self.directories()
        return self.settings.output if more else first

    def adopt(self, models: Sequence[Any]) -> None:
        """Each decoder's model."""
        for decoder, model in zip(self.decoders, models, strict=True):
            decoder.model = model

    def close(self) -> None:
        """Delete stored prefixes."""
        self.store.close()


def scheme_of(
    settings: TrainSettings, base: PreTrainedModel, store: PrefixStore | None
) -> Scheme:
    """The scheme that `settings` name.

    Raises:
        UnsupportedModelError: the base is recurrent, and the scheme mixes keys and
            values of two models layer by layer or token by token, or checkpoints.
    """
    own = settings.prefill == "own"
    if needs_one_by_one(base.config):
        _require_one_state(settings)
        return OneByOne(None if own else base)
    if own:
        return Own()
    if settings.bridge is not None:
        return Bridged(base, store)
    if settings.path == "one_pass":
        return OnePass()
    if settings.prefill == "icarus":
        return Icarus(base, store)
    if settings.recompute is not None:
        return Recompute(base, *settings.recompute)
    return Cached(base, store)


def _require_one_state(settings: TrainSettings) -> None:
    """Raise unless a recurrent model can be trained with `settings`."""
    mixes = settings.prefill in ("icarus", "recompute")
    if mixes or settings.path == "one_pass":
        asked = "path: one_pass" if not mixes else f"prefill: {settings.prefill}"
        raise UnsupportedModelError(
            f"{settings.model} has recurrent layers, whose state is one model's; "
            f"`{asked}` mixes two: use `prefill: shared` or `own`, path `cached`"
        )
    if settings.gradient_checkpointing:
        raise UnsupportedModelError(
            f"{settings.model} has recurrent layers, whose state moves on when they "
            "are computed, and `gradient_checkpointing` computes them twice: leave it "
            "off, and lower `units_per_pass` instead"
        )


def decoder_trainer(settings: TrainSettings) -> Trainer:
    """A trainer for the decoders of `settings`."""
    return decoder_run(settings)[1]


def decoder_run(settings: TrainSettings) -> tuple[DecoderExperiment, Trainer]:
    """The experiment of `settings`, for who looks at its decoders, and its trainer."""
    strategy = strategy_of(settings)
    if strategy.lockstep:
        # What is stored differs between processes, and so would their forward passes.
        off = PrefixSettings(memory_bytes=0)
        settings = settings.model_copy(update={"prefixes": off})
    experiment = DecoderExperiment(settings, strategy.device)
    return experiment, Trainer(settings, experiment, strategy.accelerator, strategy)
