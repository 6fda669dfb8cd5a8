"""Which prefill module a cache belongs to (DESIGN: a mismatch names both sides)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open

from prefillshare.errors import ConfigError, IdentityError
from prefillshare.kv.layout import KVFormat

# What in a config changes keys or values for the same tensors.
_KV_RELEVANT = (
    "model_type", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "hidden_size", "sliding_window", "layer_types", "rope_parameters",
    "rope_theta", "rope_scaling", "max_position_embeddings", "rms_norm_eps",
    "hidden_act",
)  # fmt: skip
# The same, of families that have it: a config without a key has the digest that it
# had before the key was listed.
_KV_RELEVANT_IF_PRESENT = (
    "hidden_activation", "query_pre_attn_scalar", "attn_logit_softcapping",
    "linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim",
    "linear_value_head_dim", "linear_conv_kernel_dim", "linear_allow_neg_eigval",
    "conv_L_cache", "conv_bias", "mamba_n_heads", "mamba_d_head", "mamba_d_state",
    "mamba_n_groups", "mamba_d_conv", "mamba_expand", "mamba_chunk_size", "norm_eps",
    "embedding_multiplier", "attention_multiplier", "residual_multiplier",
)  # fmt: skip


@dataclass(frozen=True)
class ModelId:
    """A canonical digest of a prefill module, as 64 hexadecimal digits."""

    digest: str

    @classmethod
    def from_directory(cls, directory: Path) -> Self:
        """Digest the module stored in `directory` (safetensors, tokenizer, config).

        Covers every stored tensor (name, shape, dtype, bytes), however sharded; the
        tokenizer; the chat template; and the config keys that bear on KV.

        Raises:
            ConfigError: there is no such directory.
            IdentityError: no safetensors file lies there.
        """
        if not directory.is_dir():
            raise ConfigError(
                f"no model in {directory}: there is no such folder; `prefillshare "
                "init` makes the packaged ones"
            )
        sha = hashlib.sha256(b"prefillshare/model/1")
        _digest_tensors(sha, directory)
        for name in ("tokenizer.json", "chat_template.jinja"):
            path = directory / name
            _field(sha, name.encode(), path.read_bytes() if path.exists() else b"")
        config = _read_json(directory / "config.json")
        template = _read_json(directory / "tokenizer_config.json").get("chat_template")
        relevant = {key: config.get(key) for key in _KV_RELEVANT}
        relevant |= {k: config[k] for k in _KV_RELEVANT_IF_PRESENT if k in config}
        document = {"config": relevant, "chat_template": template}
        _field(sha, b"document", json.dumps(document, sort_keys=True).encode())
        return cls(sha.hexdigest())

    @property
    def short(self) -> str:
        """Twelve digits, for messages."""
        return self.digest[:12]

    def require(self, other: ModelId, what: str) -> None:
        """Raise `IdentityError` unless `other`, the ModelId of `what`, is this one."""
        if self != other:
            raise IdentityError(
                f"{what} belongs to prefill module {other.short}, but this one is "
                f"{self.short}; use the module that it was trained on, or train it on "
                "this one"
            )

    def bridged(self, bridge: str) -> Self:
        """Whose caches are those of this module after a bridge of digest `bridge`."""
        sha = hashlib.sha256(b"prefillshare/bridged/1")
        _field(sha, b"model", self.digest.encode())
        _field(sha, b"bridge", bridge.encode())
        return type(self)(sha.hexdigest())

    def cache_root(self, kv_format: KVFormat, tenant_salt: str) -> bytes:
        """Where the chain hash of a tenant's cached prefixes starts."""
        sha = hashlib.sha256(b"prefillshare/cache/1")
        _field(sha, b"model", self.digest.encode())
        _field(sha, b"format", json.dumps(kv_format.to_dict(), sort_keys=True).encode())
        _field(sha, b"tenant", tenant_salt.encode())
        return sha.digest()


def _digest_tensors(sha: Any, directory: Path) -> None:
    files: dict[str, Path] = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            files.update(dict.fromkeys(tensors.keys(), path))
    if not files:
        raise IdentityError(
            f"{directory} holds no *.safetensors, so the prefill module there has no "
            "identity; save it with save_pretrained(safe_serialization=True)"
        )
    for name in sorted(files):
        with safe_open(files[name], framework="pt") as tensors:
            tensor = tensors.get_tensor(name)
        header = f"{name} {list(tensor.shape)} {tensor.dtype}"
        flat = tensor.contiguous().reshape(-1).view(torch.uint8)
        _field(sha, header.encode(), memoryview(flat.numpy()))


def _field(sha: Any, name: bytes, value: bytes | memoryview) -> None:
    # Lengths first, so that no two sequences of fields hash the same bytes.
    size = value.nbytes if isinstance(value, memoryview) else len(value)
    sha.update(b"%d %d " % (len(name), size) + name)
    sha.update(value)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded
