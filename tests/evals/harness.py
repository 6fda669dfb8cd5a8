"""Requests and decoders for the model of lm-evaluation-harness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from peft import LoraConfig
from transformers import PreTrainedModel

from prefillshare.kv.identity import ModelId
from prefillshare.models.decoder import Decoder
from prefillshare.models.prompt import Boundary
from prefillshare.models.record import DecoderRecord, Prefill
from prefillshare.tasks.recipes.recipe import Recipe
from prefillshare.tasks.recipes.sources import Source
from prefillshare.training.decoders import decoder_trainer
from prefillshare.training.settings import BatchSettings, TrainSettings
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


# Questions with two answers each to choose from, and which of them is right.
ROWS: list[dict[str, Any]] = [
    {"question": f"Which is {colour}?", "choices": ["blood", "sky"], "answer": i}
    for i, colour in enumerate(["red", "blue"])
]


def trained_decoder(base_directory: Path, folder: Path) -> str:
    """A decoder trained in `folder` to answer `ROWS`, on the base's cache."""
    data = folder / "rows.jsonl"
    talks = [
        [
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": row["choices"][row["answer"]]},
        ]
        for row in ROWS
    ]
    data.write_text("\n".join(json.dumps({"messages": talk}) for talk in talks))
    settings = TrainSettings(
        model=base_directory,
        output=folder / "run",
        task=Recipe(
            name="shipping",
            suffix="ship it",
            train=Source(path=data, format="messages"),
        ),
        boundary="suffix",
        dtype="float64",
        method="full",
        steps=60,
        learning_rate=0.01,
        batch=BatchSettings(units=len(ROWS)),
    )
    return str(decoder_trainer(settings).run(lambda _: None))


def requests(kind: str, arguments: list[Any]) -> list[Instance]:
    return [Instance(kind, {}, pair, i) for i, pair in enumerate(arguments)]


def encoded(text: str) -> list[int]:
    ids: list[int] = merging_tokenizer()(text)["input_ids"]
    return ids
