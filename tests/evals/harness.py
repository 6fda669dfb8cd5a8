"""Requests and decoders for the model of lm-evaluation-harness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from peft import LoraConfig
from transformers import PreTrainedModel

from prefillshare.kv.identity import ModelId
from prefillshare.models.decoder import Decoder
from prefillshare.models.prompt import Boundary
from prefillshare.models.record import DecoderRecord, Prefill
from tests.conftest import make_decoder
from tests.evals.merging import merging_tokenizer


def saved(
    base: PreTrainedModel,
    base_directory: Path,
    directory: Path,
    *,
    boundary: Boundary = "last_token",
    prefill: Prefill = "shared",
    fresh: bool = False,
) -> str:
    """A saved decoder, by default unlike the base."""
    model_id = ModelId.from_directory(base_directory)
    if fresh:
        record = DecoderRecord("fresh", model_id.digest, prefill, boundary, "ship it")
        decoder = Decoder.create(base, record, LoraConfig(target_modules="all-linear"))
    else:
        decoder = make_decoder(base, model_id, boundary=boundary, prefill=prefill)
    decoder.save(directory)
    return str(directory)


def requests(kind: str, arguments: list[Any]) -> list[Instance]:
    return [Instance(kind, {}, pair, i) for i, pair in enumerate(arguments)]


def encoded(text: str) -> list[int]:
    ids: list[int] = merging_tokenizer()(text)["input_ids"]
    return ids
