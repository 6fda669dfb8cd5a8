"""Without a context every architecture reads as it does one token a pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prefillshare.evals.generation import Generation, generate_text
from prefillshare.evals.likelihood import score_rows
from prefillshare.kv.cache import empty_state
from prefillshare.kv.layout import KVLayout
from prefillshare.models.decoder import Decoder
from prefillshare.models.record import DecoderRecord
from prefillshare.models.tiny import Architecture, tiny_tokenizer
from tests.architectures import HYBRID, SLIDING, TOKENS, tiny
from tests.architectures import one_thread as one_thread

pytestmark = pytest.mark.usefixtures("one_thread")
ARCHITECTURES = ("llama", *SLIDING, *HYBRID)
# Longer than the windows.
PROMPT = TOKENS[:20]


class OneTokenAPass:
    """Reads a text from its beginning."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._state = empty_state(KVLayout.from_config(model.config))

    @torch.no_grad()
    def logits(self, token: int) -> torch.Tensor:
        """After `token`, `[V]`."""
        ids = torch.tensor([[token]])
        output = self._model(ids, past_key_values=self._state, use_cache=True)
        return torch.as_tensor(output.logits[0, -1])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_are_scored_from_their_first_token(architecture: Architecture) -> None:
    model, band = tiny(architecture).model, tiny(architecture).band
    rows = [PROMPT, PROMPT[3:9]]
    for row, scores in zip(rows, score_rows(model, rows, [4, 5]), strict=True):
        reader = OneTokenAPass(model)
        steps = [reader.logits(token).log_softmax(-1) for token in row[:-1]]
        wanted = [float(step[t]) for step, t in zip(steps, row[1:], strict=True)]
        scored = len(scores.logprob)
        assert scores.logprob.tolist() == pytest.approx(wanted[-scored:], abs=band)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_text_is_generated_from_nothing_but_a_remainder(
    architecture: Architecture,
) -> None:
    model, tokenizer = tiny(architecture).model, tiny_tokenizer()
    record = DecoderRecord("any", "", "shared", "suffix", "")
    wanted = Generation((), tuple(PROMPT), (), max_tokens=5)
    answer = generate_text(Decoder(model, record), tokenizer, None, wanted)
    reader = OneTokenAPass(model)
    ids: list[int] = []
    last = [reader.logits(token) for token in PROMPT][-1]
    while len(ids) < 5 and tokenizer.eos_token_id not in ids:
        ids.append(int(last.argmax()))
        last = reader.logits(ids[-1])
    assert answer == tokenizer.decode(ids, skip_special_tokens=True)
