"""A saved decoder in plain PEFT: on a cache, and as an aLoRA over whole prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel
from transformers import DynamicCache, PreTrainedModel

from prefillshare.kv.identity import ModelId
from prefillshare.models.decoder import Decoder
from prefillshare.models.loading import load_model
from prefillshare.models.prefill import PrefillModule
from prefillshare.models.prompt import Boundary, Prompt, lay_out
from prefillshare.models.tiny import tiny_tokenizer
from tests.training.makers import activated_decoder

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning"
)
SUFFIX = "ship it"
ANSWER = (40, 7, 90, 7, 13)


def prompt_about(order: str, boundary: Boundary) -> Prompt:
    messages = [
        {"role": "system", "content": "order 417: lamp, Lyon; order 418: bed, Oslo"},
        {"role": "user", "content": f"process order {order}"},
    ]
    return lay_out(tiny_tokenizer(), messages, SUFFIX, boundary)


@pytest.fixture(scope="module")
def saved(
    tiny_model: PreTrainedModel,
    tiny_id: ModelId,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """An adapter as the one-pass path leaves it, its switch included."""
    directory = tmp_path_factory.mktemp("alora") / "decoder"
    activated_decoder(tiny_model, tiny_id).save(directory)
    return directory


def expected(base: PreTrainedModel, decoder: Decoder, prompt: Prompt) -> torch.Tensor:
    """Logits `[T, V]` for `ANSWER`, decoded from the prefill module's cache."""
    cache = PrefillModule(base).prefill(prompt.token_ids[: prompt.boundary])
    state, ids, rows = cache.to_transformers(), list(prompt.remainder), []
    for token in ANSWER:
        rows.append(decoder._step(ids, state))
        ids = [token]
    return torch.stack(rows)


@torch.no_grad()
def answer_logits(model: Any, ids: list[int], **inputs: Any) -> torch.Tensor:
    """Logits `[T, V]` for `ANSWER`, which ends `ids`, in one pass."""
    logits = model(torch.tensor([ids]), **inputs).logits[0]
    return torch.as_tensor(logits[-len(ANSWER) - 1 : -1])


def assert_close(mine: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("boundary", ["last_token", "suffix"])
def test_plain_peft_reads_the_cache_as_our_decoder_does(
    tiny_directory: Path,
    tiny_model: PreTrainedModel,
    tiny_id: ModelId,
    saved: Path,
    boundary: Boundary,
) -> None:
    prompt = prompt_about("417", boundary)
    wanted = expected(tiny_model, Decoder.load(saved, tiny_model, tiny_id), prompt)
    base = load_model(tiny_directory, torch.float64)
    past = DynamicCache()
    with torch.no_grad():
        base(torch.tensor([prompt.token_ids[: prompt.boundary]]), past_key_values=past)
    plain = PeftModel.from_pretrained(base, str(saved))
    rest = [*prompt.remainder, *ANSWER]
    assert_close(answer_logits(plain, rest, past_key_values=past), wanted)
    # The adapter does something, and reading the whole prompt with it does another.
    whole = [*prompt.token_ids, *ANSWER]
    for other in (tiny_model, plain):
        assert (answer_logits(other, whole) - wanted).abs().max() > 1e-2


@pytest.mark.parametrize("boundary", ["last_token", "suffix"])
def test_plain_peft_switches_it_on_at_the_remainder(
    tiny_directory: Path,
    tiny_model: PreTrainedModel,
    tiny_id: ModelId,
    saved: Path,
    boundary: Boundary,
) -> None:
    """What engines do with an aLoRA: one model, one prompt, no cache from elsewhere."""
    first, second = (prompt_about(order, boundary) for order in ("417", "418"))
    config = PeftConfig.from_pretrained(str(saved))
    # The same for all prompts of a decoder.
    config.alora_invocation_tokens = list(first.remainder)
    assert second.remainder == first.remainder
    base = load_model(tiny_directory, torch.float64)
    plain = PeftModel.from_pretrained(base, str(saved), config=config)
    ours = Decoder.load(saved, tiny_model, tiny_id)
    for prompt in (first, second):
        whole = [*prompt.token_ids, *ANSWER]
        wanted = expected(tiny_model, ours, prompt)
        assert_close(answer_logits(plain, whole), wanted)
        cache = PrefillModule(tiny_model).prefill(whole[: prompt.boundary])
        ids = ours.generate(
            cache, prompt.remainder, max_tokens=6, stop_ids=frozenset({0})
        )
        written = plain.generate(
            input_ids=torch.tensor([prompt.token_ids]),
            max_new_tokens=6,
            do_sample=False,
        )
        assert written[0, len(prompt.token_ids) :].tolist() == list(ids)


def test_loaded_with_an_invocation_it_is_off_where_a_pass_says(
    tiny_model: PreTrainedModel, tiny_id: ModelId, saved: Path
) -> None:
    prompt = prompt_about("417", "suffix")
    ours = Decoder.load(saved, tiny_model, tiny_id)
    activated = Decoder.load(saved, tiny_model, tiny_id, invocation=[0]).model
    whole = [*prompt.token_ids, *ANSWER]
    tail = len(whole) - prompt.boundary
    found = answer_logits(activated, whole, alora_offsets=[tail])
    assert_close(found, expected(tiny_model, ours, prompt))
    longer = answer_logits(activated, whole, alora_offsets=[tail + 5])
    assert (longer - found).abs().max() > 1e-2
