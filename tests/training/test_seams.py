"""Tokenizers that merge prompt and response: training and serving agree on ids."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from prefillshare.kv.identity import ModelId
from prefillshare.models.loading import load_tokenizer
from prefillshare.models.prompt import Boundary
from prefillshare.models.record import RECORD_FILE, DecoderRecord
from prefillshare.models.tiny import save_tiny_model, tiny_tokenizer
from prefillshare.serving.openai import ChatRequest
from prefillshare.serving.router import Router
from prefillshare.serving.settings import DecoderSettings, ServeSettings
from prefillshare.tasks.base import Sample
from prefillshare.training.data import Tokenisation
from tests.evals.merging import merging_tokenizer
from tests.training.test_data import asked, units_of

QUESTION = {"role": "user", "content": "abc xa"}


def seamless_tokenizer() -> PreTrainedTokenizerFast:
    """Prompts end with "a", so that a response "bc" would make the token "abc"."""
    tokenizer = merging_tokenizer()
    opening = "<|assistant|>"
    assert isinstance(tokenizer.chat_template, str)
    tokenizer.chat_template = tokenizer.chat_template.replace(opening, f"{opening}a")
    return tokenizer


def markless_tokenizer() -> PreTrainedTokenizerFast:
    """Nothing stands between messages: "…a" and a suffix "bc…" make the token "abc"."""
    tokenizer = merging_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    return tokenizer


def router_of(model: Path, path: Path, boundary: Boundary, suffix: str) -> Router:
    """A router that serves one decoder, of which it needs the record only."""
    digest = ModelId.from_directory(model).digest
    record = DecoderRecord("shipping", digest, "shared", boundary, suffix)
    path.mkdir()
    (path / RECORD_FILE).write_text(json.dumps(asdict(record)))
    decoders = [DecoderSettings(name="shipping", path=path)]
    return Router(ServeSettings(model=model, decoders=decoders))


def test_merges_are_said_once_and_the_ids_are_those_of_the_parts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tokenizer = seamless_tokenizer()
    task = units_of((asked("one", "bc"), asked("two", "zz")), (asked("three", "bx"),))
    with caplog.at_level(logging.WARNING):
        groups = Tokenisation(tokenizer, "last_token", 4096).groups(task, "train")
    (record,) = caplog.records
    said = record.getMessage()
    assert said.startswith("task 'given', train: as one text,")
    assert "in 2 of 3 examples (such as " in said
    assert "<|assistant|>a' before 'bc')" in said
    example = groups[0][0]
    text = str(tokenizer.decode([*example.prompt.token_ids, *example.response]))
    together = tokenizer(text, add_special_tokens=False)["input_ids"]
    # "a", "b", "c" apart are "abc" together.
    assert len(example.prompt.token_ids) + len(example.response) == len(together) + 2
    assert text.endswith("<|assistant|>abc<|end|>")
    assert tokenizer.decode(list(example.response)) == "bc<|end|>"


def test_nothing_is_said_of_a_tokenizer_that_does_not_merge(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for tokenizer in (tiny_tokenizer(), merging_tokenizer()):
        task = units_of((asked("one", "bc"), asked("two", " x")))
        Tokenisation(tokenizer, "last_token", 4096).groups(task, "train")
    assert caplog.records == []


def test_merges_at_the_boundary_are_said_and_left_to_the_decoder(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tokenizer = markless_tokenizer()
    shared = ({"role": "user", "content": "q xa"},)
    samples = [Sample(shared, suffix, "zz") for suffix in ("bc it", "a it", "b it")]
    task = units_of(*((sample,) for sample in samples))
    with caplog.at_level(logging.WARNING):
        groups = Tokenisation(tokenizer, "suffix", 4096).groups(task, "train")
    (record,) = caplog.records
    said = record.getMessage()
    assert said.startswith("task 'given', train: the tokenizer merges the end of the")
    assert "in 2 of 3 prompts (such as ['a'] into ['abc']); the boundary" in said
    one, two, three = (group[0] for group in groups)
    prefilled = [tokenizer.decode(list(e.prefill_ids)) for e in (one, two, three)]
    assert prefilled == ["q x", "q xa", "q x"]
    assert tokenizer.decode(list(one.prompt.remainder)) == "abc it<|assistant|>"
    # What one agent's merge leaves is a prefix of what the others share.
    assert one.prefill_ids == two.prefill_ids[:-1] == three.prefill_ids
    caplog.clear()
    Tokenisation(tokenizer, "last_token", 4096).groups(task, "train")
    assert caplog.records == []


@pytest.mark.parametrize("made", [seamless_tokenizer, markless_tokenizer])
@pytest.mark.parametrize("boundary", ["last_token", "suffix"])
@pytest.mark.parametrize("answer", ["bc x", "zz"])
def test_serving_lays_out_what_was_trained(
    tmp_path: Path,
    boundary: Boundary,
    answer: str,
    made: Callable[[], PreTrainedTokenizerFast],
) -> None:
    model = save_tiny_model(tmp_path / "model")
    made().save_pretrained(model)
    tokenizer = load_tokenizer(model)
    suffix = "bc x"
    trained = Tokenisation(tokenizer, boundary, 4096).group(
        (Sample((QUESTION,), suffix, answer),)
    )[0]
    router = router_of(model, tmp_path / "decoder", boundary, suffix)
    request = ChatRequest.model_validate({"model": "shipping", "messages": [QUESTION]})
    generation = router.accept(request)
    assert generation.prompt == trained.prompt
    # What serving streams is the response's own tokens, to a stop token of its own.
    *said, stop = trained.response
    assert stop in generation.lane.stop_ids
    assert tokenizer.decode(said) == answer
