"""Tokens of two tokenizers over one text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from prefillshare.errors import DataError
from prefillshare.models.bridge.spans import Span
from prefillshare.models.tiny import tiny_tokenizer
from tests.bridges import align, identity

TEXTS = [
    "order 417: item lamp, town Lyon",
    "заказ № 417: лампа, город Лион",
    "注文417番:ランプ、町はリヨン",
    "طلب ٤١٧: مصباح، مدينة ليون",
    "🚚 → 🏠 family 👨‍👩‍👧 flag 🇫🇷",
    "def f(x):\n\treturn x**2  # 平方\n",
    "<|user|>Ship it.<|end|>",
]


def words(text: str) -> list[Span]:
    """Words, spaces and signs, each a token."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"\w+|\s+|[^\w\s]"), "isolated"
    )
    return list(tokenizer.encode(text).offsets)


def pieces(text: str) -> list[Span]:
    """Bytes, a token each: one character's share its span."""
    encoded = tiny_tokenizer()(text, return_offsets_mapping=True)
    return list(encoded["offset_mapping"])


@pytest.mark.parametrize("text", TEXTS)
def test_every_token_gets_tokens_of_its_own_characters(text: str) -> None:
    fine, coarse = pieces(text), words(text)
    for source, target in ((fine, coarse), (coarse, fine)):
        aligned = align(source, target)
        assert aligned.tokens.shape[0] == len(target)
        torch.testing.assert_close(aligned.weights.sum(1), torch.ones(len(target)))
        for (start, end), tokens, weights in zip(
            target, aligned.tokens.tolist(), aligned.weights.tolist(), strict=True
        ):
            for i, weight in zip(tokens, weights, strict=True):
                overlaps = source[i][0] < end and start < source[i][1]
                assert overlaps or weight == 0


@pytest.mark.parametrize("text", TEXTS)
def test_a_tokenization_and_itself(text: str) -> None:
    spans = words(text)
    aligned = align(spans, spans)
    assert aligned.is_identity
    states = torch.randn(2, len(spans), 3, dtype=torch.float64)
    assert torch.equal(aligned.apply(states), states)
    assert torch.equal(identity(len(spans)).apply(states), states)


def test_means_are_weighted_by_shared_characters() -> None:
    # "abcd" as abc|d against a|bcd.
    aligned = align([(0, 3), (3, 4)], [(0, 1), (1, 4)])
    states = torch.tensor([[3.0], [9.0]])
    assert aligned.apply(states).tolist() == [[3.0], [pytest.approx(5.0)]]


def test_a_token_that_no_text_stands_for_gets_the_one_before_it() -> None:
    source = [(0, 2), (2, 4)]
    aligned = align(source, [(0, 0), (0, 4), (4, 4)])
    assert aligned.tokens[0, 0] == 0 and aligned.weights[0].tolist() == [1.0, 0.0]
    assert aligned.tokens[2, 0] == 1 and aligned.weights[2].tolist() == [1.0, 0.0]


@given(st.lists(st.integers(1, 4), min_size=1), st.lists(st.integers(1, 4)))
def test_what_a_text_says_is_kept(first: list[int], second: list[int]) -> None:
    """Where each character's token says the character, the mean says the mean."""
    length = min(sum(first), sum(second))
    source, target = _cut(first, length), _cut(second, length)
    if not source or not target:
        return
    middles = torch.tensor([[(a + b) / 2] for a, b in source])
    found = align(source, target).apply(middles)
    for (start, end), value in zip(target, found[:, 0].tolist(), strict=True):
        covering = [s for s in source if s[0] < end and start < s[1]]
        assert covering[0][0] <= value <= covering[-1][1]


def _cut(lengths: list[int], length: int) -> list[Span]:
    spans, at = [], 0
    for size in lengths:
        if at < length:
            spans.append((at, min(at + size, length)))
            at += size
    return spans


def test_what_cannot_be_aligned_is_refused() -> None:
    with pytest.raises(DataError, match="no source tokens"):
        align([], [(0, 1)])
    with pytest.raises(DataError, match="the target tokens' spans are not in"):
        align([(0, 1)], [(1, 2), (0, 1)])
