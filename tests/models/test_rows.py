"""What training needs of a cache: rows of a batch, and gradients through the states."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prefillshare.kv.cache import empty_state
from prefillshare.kv.layout import KVLayout
from prefillshare.models.tiny import Architecture
from tests.architectures import HYBRID, SLIDING, TOKENS, tiny
from tests.architectures import one_thread as one_thread
from tests.conftest import make_decoder

pytestmark = pytest.mark.usefixtures("one_thread")
every = pytest.mark.parametrize("architecture", ["llama", *SLIDING, *HYBRID])


def padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and their mask."""
    width = max(map(len, rows))
    ids = [row + [0] * (width - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)


def last_logits(model: Any, rows: list[tuple[list[int], list[int]]]) -> torch.Tensor:
    """Per row, logits after a prefill and what is read over it, both right-padded."""
    state = empty_state(KVLayout.from_config(model.config))
    ids, mask = padded([prompt for prompt, _ in rows])
    with torch.no_grad():
        model(ids, attention_mask=mask, past_key_values=state, use_cache=True)
        rest, present = padded([rest for _, rest in rows])
        starts = torch.tensor([len(prompt) for prompt, _ in rows])
        logits = model(
            rest,
            attention_mask=torch.cat([mask, present], 1),
            position_ids=starts[:, None] + torch.arange(rest.shape[1]),
            past_key_values=state,
            use_cache=True,
        ).logits
    return torch.stack(
        [row[len(rest) - 1] for row, (_, rest) in zip(logits, rows, strict=True)]
    )


def row_by_row(model: Any, rows: list[tuple[list[int], list[int]]]) -> torch.Tensor:
    return torch.cat([last_logits(model, [row]) for row in rows])


@every
def test_rows_of_equal_prompts_may_be_padded_behind(architecture: Architecture) -> None:
    model = tiny(architecture).model
    rows = [(TOKENS[:30], TOKENS[30:34]), (TOKENS[10:40], TOKENS[40:49])]
    torch.testing.assert_close(
        last_logits(model, rows),
        row_by_row(model, rows),
        rtol=0,
        atol=tiny(architecture).band,
    )


@every
def test_the_layout_knows_whether_prompts_may_be_padded(
    architecture: Architecture,
) -> None:
    model = tiny(architecture).model
    rows = [(TOKENS[:30], TOKENS[30:34]), (TOKENS[10:31], TOKENS[31:34])]
    difference = (last_logits(model, rows) - row_by_row(model, rows)).abs().max()
    if KVLayout.from_config(model.config).requires_equal_rows:
        assert difference > 1e-2
    else:
        assert difference < 1e-10


def gradients(parameters: list[torch.nn.Parameter], loss: Any) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, parameters))


@every
def test_gradients_flow_through_a_cache_filled_in_pieces(
    architecture: Architecture,
) -> None:
    """Pieces of several tokens and of one, as one plain forward pass."""
    model, model_id = tiny(architecture).model, tiny(architecture).model_id
    decoder = make_decoder(model, model_id).model
    trained = [p for p in decoder.parameters() if p.requires_grad]
    state = empty_state(KVLayout.from_config(model.config))
    for piece in (TOKENS[:20], TOKENS[20:21], TOKENS[21:40], TOKENS[40:]):
        ids = torch.tensor([piece])
        logits = decoder(ids, past_key_values=state, use_cache=True).logits
    ours = gradients(trained, logits[0, -1].logsumexp(0))
    whole = decoder(torch.tensor([TOKENS]), use_cache=False).logits
    expected = gradients(trained, whole[0, -1].logsumexp(0))
    band = tiny(architecture).band
    torch.testing.assert_close(ours, expected, rtol=band, atol=band)
    assert max(float(gradient.abs().max()) for gradient in expected) > 100 * band
