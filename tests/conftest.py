"""Tiny models, built in code, that every suite shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import PreTrainedModel

from prefillshare.kv.identity import ModelId
from prefillshare.models.decoder import Decoder
from prefillshare.models.loading import load_model
from prefillshare.models.prompt import Boundary
from prefillshare.models.record import DecoderRecord, Prefill
from prefillshare.models.tiny import save_tiny_model

# transformers imports DeepSpeed, which says on stdout what it takes for lack of a GPU.
os.environ.setdefault("DS_ACCELERATOR", "cpu")


@pytest.fixture(autouse=True, scope="session")
def one_thread_for_all() -> None:
    """Tiny tensors gain nothing from threads, and wait for them on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved fp64 model."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny"), dtype=torch.float64)


@pytest.fixture(scope="session")
def tiny_model(tiny_directory: Path) -> PreTrainedModel:
    """That model, loaded in fp64 and frozen."""
    return load_model(tiny_directory, torch.float64)


@pytest.fixture(scope="session")
def tiny_id(tiny_directory: Path) -> ModelId:
    """That model's identity."""
    return ModelId.from_directory(tiny_directory)


def make_decoder(
    model: PreTrainedModel,
    model_id: ModelId,
    *,
    name: str = "shipping",
    prefill: Prefill = "shared",
    boundary: Boundary = "last_token",
    suffix: str = "ship it",
    seed: int = 1,
) -> Decoder:
    """A LoRA decoder whose adapter differs from zero."""
    record = DecoderRecord(name, model_id.digest, prefill, boundary, suffix)
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder = Decoder.create(model, record, lora)
        for parameter in decoder.model.parameters():
            if parameter.requires_grad:
                parameter.data = 0.2 * torch.randn_like(parameter)
    decoder.model.eval()
    return decoder
