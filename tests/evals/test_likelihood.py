"""Log-likelihoods equal those of a turn-by-turn inference, token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, PreTrainedModel

from prefillshare.errors import DataError
from prefillshare.evals.likelihood import (
    Continuation,
    SharedCacheScorer,
    score_rows,
)
from prefillshare.kv.identity import ModelId
from prefillshare.models.prefill import PrefillModule
from tests.conftest import make_decoder

IDS = tuple((7 * i + 3 * i * i) % 250 + 4 for i in range(40))


@pytest.fixture(scope="module")
def decoder(tiny_model: PreTrainedModel, tiny_id: ModelId) -> Any:
    """A decoder's model, unlike the base."""
    return make_decoder(tiny_model, tiny_id).model


@contextmanager
def tokens_read(model: Any) -> Iterator[list[int]]:
    """How many tokens each forward pass of `model` reads, per row."""
    read: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"].shape[1]),
        with_kwargs=True,
    )
    try:
        yield read
    finally:
        hook.remove()


@torch.no_grad()
def turn_by_turn(base: Any, decoder: Any, item: Continuation) -> list[torch.Tensor]:
    """The log-probabilities `[V]` before each scored token, one token a pass.

    The base reads up to the boundary, the decoder every token after it.
    """
    cache = DynamicCache()
    found = []
    for position, token in enumerate(item.token_ids[:-1]):
        model = base if position < item.boundary else decoder
        output = model(
            input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True
        )
        if position + 1 >= item.first_scored:
            found.append(output.logits[0, -1].log_softmax(-1))
    return found


def expected(base: Any, decoder: Any, item: Continuation) -> list[list[float]]:
    steps = turn_by_turn(base, decoder, item)
    tokens = item.token_ids[item.first_scored :]
    return [
        [float(step[token]) for step, token in zip(steps, tokens, strict=True)],
        [float(step.argmax() == t) for step, t in zip(steps, tokens, strict=True)],
        [float(step.max().exp()) for step in steps],
    ]


def check(scorer: SharedCacheScorer, base: Any, items: Sequence[Continuation]) -> None:
    for item, scores in zip(items, scorer.score(items), strict=True):
        found = [scores.logprob, scores.greedy.double(), scores.confidence]
        for values, wanted in zip(
            found, expected(base, scorer.decoder, item), strict=True
        ):
            assert values.tolist() == pytest.approx(wanted, abs=1e-10)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_scores_are_those_of_turn_by_turn_inference(
    tiny_model: PreTrainedModel, decoder: Any, data: st.DataObject
) -> None:
    items = []
    for _ in range(data.draw(st.integers(1, 3))):
        length = data.draw(st.integers(2, 10))
        scored = data.draw(st.integers(1, length - 1))
        boundary = data.draw(st.integers(0, length - 2))
        items.append(Continuation(IDS[:length], scored, boundary))
    scorer = SharedCacheScorer(PrefillModule(tiny_model), decoder, rows=3)
    check(scorer, tiny_model, items)


def test_answers_of_different_lengths_are_scored_in_one_pass_over_one_cache(
    tiny_model: PreTrainedModel, decoder: Any
) -> None:
    items = [
        Continuation((*IDS[:10], *range(20, 20 + n)), n, boundary=9) for n in (5, 1, 3)
    ]
    scorer = SharedCacheScorer(PrefillModule(tiny_model), decoder, rows=3)
    with tokens_read(tiny_model) as base, tokens_read(decoder) as own:
        found = scorer.score(items)
    assert (base, own) == ([9], [5])
    assert [len(each.logprob) for each in found] == [5, 1, 3]
    check(scorer, tiny_model, items)


def test_a_prefix_is_prefilled_once_and_never_by_the_decoder(
    tiny_model: PreTrainedModel, decoder: Any
) -> None:
    items = [Continuation((*IDS[:20], n, n + 1), 1, boundary=20) for n in (30, 40)]
    longer = Continuation((*IDS[:25], 9, 9), 1, boundary=25)
    progress: list[int] = []
    scorer = SharedCacheScorer(PrefillModule(tiny_model), decoder)
    with tokens_read(tiny_model) as base, tokens_read(decoder) as own:
        scorer.score([longer, *items], progress.append)
    assert (base, own, progress) == ([20, 5], [1, 1, 1], [1, 1, 1])


def test_padding_changes_no_row(tiny_model: PreTrainedModel) -> None:
    rows = [IDS[:3], IDS[5:20], IDS[8:10]]
    together = score_rows(tiny_model, rows, [2, 4, 1])
    for row, scored, found in zip(rows, [2, 4, 1], together, strict=True):
        (alone,) = score_rows(tiny_model, [row], [scored])
        torch.testing.assert_close(found.logprob, alone.logprob, rtol=0, atol=1e-10)
        assert found.total == pytest.approx(float(alone.logprob.sum()))


@pytest.mark.parametrize(
    ("length", "scored", "boundary"), [(3, 3, 0), (3, 0, 0), (3, 1, 2), (3, 1, -1)]
)
def test_what_cannot_be_scored_is_refused(
    length: int, scored: int, boundary: int
) -> None:
    with pytest.raises(DataError, match="a scored token needs one before it"):
        Continuation(IDS[:length], scored, boundary)
