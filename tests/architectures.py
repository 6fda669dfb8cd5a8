"""Tiny models of every architecture, built once per run, and how exact each is."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from transformers import PreTrainedModel

from prefillshare.kv.cache import KVCache
from prefillshare.kv.identity import ModelId
from prefillshare.models.loading import load_model
from prefillshare.models.tiny import Architecture, save_tiny_model

WINDOW = 16
TOKENS = random.Random(0).choices(range(4, 260), k=53)
SLIDING: tuple[Architecture, ...] = ("mistral", "gemma3")
HYBRID: tuple[Architecture, ...] = ("qwen3_5", "lfm2")
# Differences of logits; a recurrence in float32 sets its own. With a state lost they
# are above 0.01.
_BANDS: dict[Architecture, float] = {"qwen3_5": 1e-4}


@dataclass(frozen=True)
class Tiny:
    """An fp64 model, frozen."""

    model: PreTrainedModel
    model_id: ModelId
    band: float


@cache
def tiny(architecture: Architecture) -> Tiny:
    """The model of that architecture."""
    with TemporaryDirectory() as folder:
        directory = save_tiny_model(
            Path(folder), architecture=architecture, dtype=torch.float64, window=WINDOW
        )
        model = load_model(directory, torch.float64)
        model_id = ModelId.from_directory(directory)
    return Tiny(model, model_id, _BANDS.get(architecture, 1e-10))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and wait for them on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def assert_close(mine: KVCache, theirs: KVCache, band: float) -> None:
    """Every key, value and state differs by no more than `band`."""
    torch.testing.assert_close(tensors(mine), tensors(theirs), rtol=0, atol=band)


def tensors(cache: KVCache) -> list[torch.Tensor]:
    """Everything that a cache consists of, in a fixed order."""
    found = [tensor for layer in cache.layers for tensor in layer]
    return found + [tensor for state in cache.states for tensor in state.tensors]
