"""Decode modules: LoRA over the base's weights or weights of their own.

They generate from a given cache.
"""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import DynamicCache, PreTrainedModel

from prefillshare.errors import CheckpointError, IdentityError
from prefillshare.kv.cache import KVCache, empty_state
from prefillshare.kv.identity import ModelId
from prefillshare.kv.layout import KVLayout
from prefillshare.models.loading import freeze, hub_id, load_model, share_weights
from prefillshare.models.prompt import Boundary

RECORD_FILE = "prefillshare.json"
_WEIGHTS_FILE = "adapter_model.safetensors"
_ADAPTER_CONFIG_FILE = "adapter_config.json"
_FULL_WEIGHTS_FILE = "config.json"
Prefill = Literal["shared", "own", "icarus", "recompute"]


@dataclass(frozen=True)
class DecoderRecord:
    """What a decoder was trained for: kept beside its weights.

    Attributes:
        model_id: digest of the prefill module (and base weights) it was trained on.
        prefill: whose cache it reads: the frozen module's, its own, or a mix of both
            (`training.schemes`), which is trained and evaluated but not served.
        boundary: where the prefill module stops reading.
        suffix: the agent suffix that the router appends.
        kv_formats: the formats it was trained with, as `KVFormat.to_dict`.
    """

    name: str
    model_id: str
    prefill: Prefill
    boundary: Boundary
    suffix: str
    kv_formats: tuple[dict[str, Any], ...] = field(default=())

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read the record of a saved decoder.

        Raises:
            CheckpointError: it is missing or not what this version writes.
        """
        path = directory / RECORD_FILE
        try:
            fields = json.loads(path.read_text())
            fields["kv_formats"] = tuple(fields["kv_formats"])
            return cls(**fields)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} is not a decoder record "
                f"({getattr(error, 'strerror', None) or error}); give a directory that "
                "`prefillshare train` wrote"
            ) from error

    def require_base(self, base: ModelId) -> None:
        """Raise `IdentityError` unless the decoder was trained on `base`."""
        base.require(ModelId(self.model_id), f"decoder {self.name!r}")

    def require_prefill(self, prefill: Prefill) -> None:
        """Raise `IdentityError` unless the decoder reads caches of this kind."""
        if self.prefill != prefill:
            raise IdentityError(
                f"decoder {self.name!r} was trained on its {self.prefill!r} prefill "
                f"and cannot be served with {prefill!r}; train one that can"
            )

    def require_task(self, name: str, suffix: str) -> None:
        """Raise `IdentityError` unless the decoder was trained for this task."""
        if (self.name, self.suffix) != (name, suffix):
            raise IdentityError(
                f"a decoder of {self.name!r} with the suffix {self.suffix!r} is listed "
                f"for task {name!r}; name the decoder that was trained for it"
            )


class Decoder:
    """Generates from a cache that a prefill module left."""

    def __init__(self, model: Any, record: DecoderRecord) -> None:
        self.model = model
        self.record = record

    @classmethod
    def create(
        cls, base: PreTrainedModel, record: DecoderRecord, lora: LoraConfig | None
    ) -> Self:
        """A fresh decoder from `base`: LoRA over its weights, or a whole copy."""
        if lora is None:
            return cls(copy.deepcopy(base).requires_grad_(True), record)
        with _peft_warnings_ignored():
            return cls(get_peft_model(share_weights(base), lora), record)

    @classmethod
    def load(
        cls,
        directory: Path,
        base: PreTrainedModel,
        base_id: ModelId,
        *,
        invocation: Sequence[int] | None = None,
    ) -> Self:
        """A saved decoder over `base`.

        Args:
            invocation: load the adapter as an aLoRA (arXiv 2504.12397), to read whole
                prompts by itself: PEFT leaves it off before the last occurrence of
                these tokens, or before `alora_offsets` if a call gives them. They are
                the `remainder` of any of the decoder's prompts.

        Raises:
            IdentityError: it was trained on another prefill module.
            CheckpointError: the directory holds no decoder.
        """
        record = DecoderRecord.load(directory)
        record.require_base(base_id)
        if (directory / _FULL_WEIGHTS_FILE).is_file():
            whole = load_model(directory, base.dtype)
            torch.nn.Module.to(whole, base.device)
            return cls(whole, record)
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
        freeze(model)
        return cls(model, record)

    def save(self, directory: Path) -> None:
        """Write PEFT weights (safetensors) and the record into `directory`.

        A base from the hub is named in PEFT's configuration, any other is not.

        Raises:
            CheckpointError: it could not be written; nothing half-written is left.
        """
        fresh = directory.with_name(directory.name + ".partial")
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            with _adapter_on_everywhere(self.model):
                self.model.save_pretrained(str(fresh))
            _name_base(fresh, hub_id(Path(self.model.name_or_path)))
            # PEFT's model card is an empty form.
            (fresh / "README.md").unlink(missing_ok=True)
            text = json.dumps(asdict(self.record), indent=2)
            (fresh / RECORD_FILE).write_text(text + "\n")
            if directory.exists():
                shutil.rmtree(directory)
            fresh.rename(directory)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(fresh, ignore_errors=True)
            raise CheckpointError(
                f"the decoder {directory} could not be written: {error}; free space "
                "or choose another `output`, then start again"
            ) from error

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
