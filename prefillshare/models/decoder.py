"""Decode modules: LoRA over the base's weights or weights of their own.

They generate from a given cache.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import DynamicCache, PreTrainedModel

from prefillshare.errors import CheckpointError
from prefillshare.files import written_whole
from prefillshare.kv.cache import KVCache, empty_state
from prefillshare.kv.identity import ModelId
from prefillshare.kv.layout import KVLayout
from prefillshare.models.bridge.bridge import Bridge, attach_bridge, bridge_of
from prefillshare.models.bridge.storage import bridge_digest, load_bridge, save_bridge
from prefillshare.models.loading import (
    embeddings_of,
    freeze,
    hub_id,
    load_model,
    share_weights,
)
from prefillshare.models.record import RECORD_FILE, DecoderRecord

_WEIGHTS_FILE = "adapter_model.safetensors"
_ADAPTER_CONFIG_FILE = "adapter_config.json"
_FULL_WEIGHTS_FILE = "config.json"
_BRIDGE = "bridge"


class Decoder:
    """Generates from a cache that a prefill module left."""

    def __init__(self, model: Any, record: DecoderRecord) -> None:
        self.model = model
        self.record = record

    @classmethod
    def create(
        cls,
        base: PreTrainedModel,
        record: DecoderRecord,
        lora: LoraConfig | None,
        bridge: Bridge | None = None,
    ) -> Self:
        """A fresh decoder from `base`: LoRA over its weights, or a whole copy.

        It learns `bridge` too, if it reads through one.
        """
        if lora is None:
            model: Any = copy.deepcopy(base).requires_grad_(True)
        else:
            with _peft_warnings_ignored():
                model = get_peft_model(share_weights(base), lora)
        if bridge is not None:
            attach_bridge(model, bridge)
        return cls(model, record)

    @classmethod
    def bare(cls, base: PreTrainedModel, record: DecoderRecord, bridge: Bridge) -> Self:
        """A decoder whose weights stay those of `base`: it learns `bridge` alone."""
        model = freeze(share_weights(base))
        attach_bridge(model, bridge)
        return cls(model, replace(record, bare=True))

    @classmethod
    def load(
        cls,
        directory: Path,
        base: PreTrainedModel,
        base_id: ModelId,
        *,
        weights_id: ModelId | None = None,
        invocation: Sequence[int] | None = None,
    ) -> Self:
        """A saved decoder over `base`.

        Args:
            base: the model that its weights started from.
            base_id: the prefill module's identity.
            weights_id: that of `base`, if it is another model than the prefill module.
            invocation: load the adapter as an aLoRA (arXiv 2504.12397), to read whole
                prompts by itself: PEFT leaves it off before the last occurrence of
                these tokens, or before `alora_offsets` if a call gives them. They are
                the `remainder` of any of the decoder's prompts.

        Raises:
            IdentityError: it was trained on another prefill module, or started from
                other weights.
            CheckpointError: the directory holds no decoder.
        """
        record = DecoderRecord.load(directory)
        record.require_base(base_id)
        record.require_weights(weights_id)
        if record.bare:
            model = freeze(share_weights(base))
        else:
            model = cls._load_model(directory, base, invocation)
        bridge = load_decoder_bridge(directory, record)
        if bridge is not None:
            bridge.take_embeddings(embeddings_of(base))
            attach_bridge(model, freeze(bridge.to(base.device)))
        return cls(model, record)

    @staticmethod
    def _load_model(
        directory: Path, base: PreTrainedModel, invocation: Sequence[int] | None
    ) -> Any:
        if (directory / _FULL_WEIGHTS_FILE).is_file():
            whole = load_model(directory, base.dtype)
            torch.nn.Module.to(whole, base.device)
            return whole
        if not (directory / _WEIGHTS_FILE).is_file():
            raise CheckpointError(
                f"{directory} holds no {_WEIGHTS_FILE}; train the decoder again"
            )
        try:
            with _peft_warnings_ignored():
                config = PeftConfig.from_pretrained(str(directory))
                if invocation is not None:
                    config.alora_invocation_tokens = list(invocation)
                model = PeftModel.from_pretrained(
                    share_weights(base), str(directory), config=config
                )
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise CheckpointError(
                f"the LoRA weights in {directory} cannot be read: {error}"
            ) from error
        return freeze(model)

    def save(self, directory: Path) -> None:
        """Write PEFT weights (safetensors) and the record into `directory`.

        A base from the hub is named in PEFT's configuration, any other is not.

        Raises:
            CheckpointError: it could not be written; nothing half-written is left.
        """
        with written_whole(directory, "decoder") as fresh:
            record = self._save_bridge(fresh)
            if not record.bare:
                self._save_weights(fresh)
            text = json.dumps(asdict(record), indent=2)
            (fresh / RECORD_FILE).write_text(text + "\n")

    def _save_weights(self, directory: Path) -> None:
        with _adapter_on_everywhere(self.model), _without_bridge(self.model):
            self.model.save_pretrained(str(directory))
        _name_base(directory, hub_id(Path(self.model.name_or_path)))
        # PEFT's model card is an empty form.
        (directory / "README.md").unlink(missing_ok=True)

    def _save_bridge(self, directory: Path) -> DecoderRecord:
        """Write the bridge, if there is one; returns the record that names it."""
        bridge = bridge_of(self.model)
        if bridge is None:
            return self.record
        weights = ModelId(self.record.weights_id or self.record.model_id)
        save_bridge(
            bridge, directory / _BRIDGE, (ModelId(self.record.model_id), weights)
        )
        return replace(self.record, bridge=bridge_digest(directory / _BRIDGE))

    def generate(
        self,
        cache: KVCache,
        remainder: Sequence[int],
        *,
        max_tokens: int,
        stop_ids: frozenset[int],
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> Iterator[int]:
        """Yield token ids after `remainder`, which follows the tokens of `cache`.

        The first forward pass computes exactly `remainder`; a stop id ends the
        stream and is yielded last. `temperature` 0 is greedy.
        """
        empty = not cache.layers
        state = empty_state(self._layout()) if empty else cache.to_transformers()
        sampler = torch.Generator().manual_seed(seed) if seed is not None else None
        ids = list(remainder)
        for _ in range(max_tokens):
            logits = self._step(ids, state)
            token = _sample(logits, temperature, sampler)
            yield token
            if token in stop_ids:
                return
            ids = [token]

    def _layout(self) -> KVLayout:
        return KVLayout.from_config(self.model.config)

    @torch.inference_mode()
    def _step(self, ids: list[int], state: DynamicCache) -> torch.Tensor:
        """Logits `[vocabulary]` after `ids`; `state` grows by them."""
        output = self.model(
            input_ids=torch.tensor([ids], device=self.model.device),
            past_key_values=state,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[0, -1]
        return logits


def load_decoder_bridge(directory: Path, record: DecoderRecord) -> Bridge | None:
    """What the decoder saved in `directory` reads through, if anything.

    Raises:
        CheckpointError: it is missing, damaged, or not the one that `record` names.
        IdentityError: it joins other models than the record names.
    """
    if record.bridge is None:
        return None
    here = directory / _BRIDGE
    if (found := bridge_digest(here)) != record.bridge:
        raise CheckpointError(
            f"the bridge in {here} has digest {found[:12]}, but the decoder was saved "
            f"with {record.bridge[:12]}; copy the decoder's directory whole"
        )
    ends = (record.model_id, record.weights_id or record.model_id)
    return load_bridge(here, (ModelId(ends[0]), ModelId(ends[1])))


def _sample(
    logits: torch.Tensor, temperature: float, sampler: torch.Generator | None
) -> int:
    if temperature == 0.0:
        return int(logits.argmax())
    weights = torch.softmax(logits.double() / temperature, dim=-1)
    return int(torch.multinomial(weights, 1, generator=sampler))


@contextmanager
def _adapter_on_everywhere(model: Any) -> Iterator[None]:
    """Without the aLoRA switch: a saved decoder reads a cache with its adapter on."""
    configs = list(getattr(model, "peft_config", {}).values())
    tokens = [config.alora_invocation_tokens for config in configs]
    for config in configs:
        config.alora_invocation_tokens = None
    try:
        yield
    finally:
        for config, before in zip(configs, tokens, strict=True):
            config.alora_invocation_tokens = before


@contextmanager
def _without_bridge(model: Any) -> Iterator[None]:
    """A bridge is saved apart."""
    bridge = bridge_of(model)
    if bridge is not None:
        del model.bridge
    try:
        yield
    finally:
        if bridge is not None:
            attach_bridge(model, bridge)


def _name_base(directory: Path, base: str | None) -> None:
    """Where PEFT wrote a path of this machine, name `base`, a hub repository.

    PEFT takes the base model that it is given; the name serves readers only.
    """
    path = directory / _ADAPTER_CONFIG_FILE
    if path.is_file():
        config = json.loads(path.read_text())
        config["base_model_name_or_path"] = base
        path.write_text(json.dumps(config, indent=2, sort_keys=True))


@contextmanager
def _peft_warnings_ignored() -> Iterator[None]:
    """PEFT asks transformers for a property that is being renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", ".*is_gradient_checkpointing.*", FutureWarning
        )
        yield
