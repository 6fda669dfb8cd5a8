"""What every training experiment starts from: models, tokens, fresh decoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import PreTrainedModel

from prefillshare.errors import ConfigError
from prefillshare.kv.identity import ModelId
from prefillshare.kv.layout import KVFormat
from prefillshare.models.bridge.bridge import Bridge
from prefillshare.models.bridge.prompt import tokenizer_of_decoder
from prefillshare.models.bridge.storage import load_bridge
from prefillshare.models.decoder import Decoder
from prefillshare.models.loading import (
    embeddings_of,
    load_model,
    load_tokenizer,
    model_context_tokens,
)
from prefillshare.models.prompt import Boundary
from prefillshare.models.record import DecoderRecord
from prefillshare.tasks.base import Task
from prefillshare.training.data import Group, Tokenisation
from prefillshare.training.settings import RunSettings
from prefillshare.training.targets import require_targets


@dataclass(frozen=True)
class Workshop:
    """What every experiment starts from: the base model and how text becomes tokens.

    `weights` are those that decoders start from: the base's, or those of another model,
    whose identity is `weights_id`.
    """

    settings: RunSettings
    base: PreTrainedModel
    model_id: ModelId
    tokenisation: Tokenisation
    weights: PreTrainedModel
    weights_id: ModelId | None = None

    @classmethod
    def open(cls, settings: RunSettings, device: torch.device) -> Workshop:
        """Load the models of `settings`, frozen.

        Torch's seed and its precision of matrix products are theirs from here on.
        """
        torch.manual_seed(settings.seed)
        torch.set_float32_matmul_precision(settings.matmul_precision)
        other = getattr(settings, "decoder_model", None)
        base = _load(settings.model, settings, device)
        model_id = ModelId.from_directory(settings.model)
        tokens = tokenisation_of(settings.model, other, settings.boundary)
        if other is None:
            return cls(settings, base, model_id, tokens, base)
        weights = _load(other, settings, device)
        weights_id = ModelId.from_directory(other)
        return cls(settings, base, model_id, tokens, weights, weights_id)

    def load(self, directory: Path) -> Decoder:
        """A decoder that was saved."""
        return Decoder.load(
            directory, self.weights, self.model_id, weights_id=self.weights_id
        )

    def groups(self, tasks: Sequence[Task]) -> list[Group]:
        """The training units of `tasks`, one task after the other."""
        return [
            group for task in tasks for group in self.tokenisation.groups(task, "train")
        ]

    def decoder(
        self, name: str, suffix: str, prefill: Any, *, activated: bool = False
    ) -> Decoder:
        """A fresh decoder from the base's weights.

        With `activated`, the adapter can be switched off for a prompt (aLoRA).

        Raises:
            ConfigError: the adapter that the settings describe does not fit the model.
        """
        settings = self.settings
        record = DecoderRecord(
            name=name,
            model_id=self.model_id.digest,
            prefill=prefill,
            boundary=settings.boundary,
            suffix=suffix,
            kv_formats=(KVFormat(settings.dtype).to_dict(),),
            weights_id=self.weights_id.digest if self.weights_id else None,
        )
        bridge = self._bridge()
        if bridge is not None and getattr(settings, "bridge_alone", False):
            return Decoder.bare(self.weights, record, bridge)
        if settings.method == "full":
            return Decoder.create(self.weights, record, None, bridge)
        lora = settings.lora
        require_targets(lora.targets, self.weights)
        adapter = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.targets,
            task_type="CAUSAL_LM",
            trainable_token_indices=self._trainable_tokens(),
            # The offsets are given with every pass: any token enables them.
            alora_invocation_tokens=[0] if activated else None,
        )
        try:
            return Decoder.create(self.weights, record, adapter, bridge)
        except ValueError as error:
            raise ConfigError(
                f"no adapter fits the layers that lora.targets names ({error}); name "
                "linear ones, or all-linear"
            ) from error

    def _bridge(self) -> Bridge | None:
        directory: Path | None = getattr(self.settings, "bridge", None)
        if directory is None:
            return None
        assert self.weights_id is not None, "settings with a bridge name both models"
        bridge = load_bridge(directory, (self.model_id, self.weights_id))
        bridge.take_embeddings(embeddings_of(self.weights))
        return bridge.to(self.base.device, self.base.dtype)

    def _trainable_tokens(self) -> list[int] | None:
        tokens = self.settings.lora.trainable_tokens
        known = self.tokenisation.answering.get_vocab()
        if unknown := [token for token in tokens if token not in known]:
            raise ConfigError(
                f"lora.trainable_tokens names {', '.join(map(repr, unknown))}, which "
                "the decoder's tokenizer does not have; choose tokens of its "
                "vocabulary, reserved ones say"
            )
        return [known[token] for token in tokens] or None


def _load(
    directory: Path, settings: RunSettings, device: torch.device
) -> PreTrainedModel:
    model = load_model(directory, getattr(torch, settings.dtype))
    torch.nn.Module.to(model, device)
    return model


def tokenisation_of(
    model: Path, other: Path | None, boundary: Boundary
) -> Tokenisation:
    """Prompts of the template of `model`, in the tokens of decoders from `other`.

    None stands for decoders from `model` itself.
    """
    own = load_tokenizer(model)
    if other is None:
        return Tokenisation(own, boundary, model_context_tokens(model))
    return Tokenisation(
        own,
        boundary,
        min(map(model_context_tokens, (model, other))),
        decoder=tokenizer_of_decoder(own, other),
    )
