"""The canonical layout: context, transcript, suffix, generation prompt."""

from __future__ import annotations

import pytest

from prefillshare.errors import DataError
from prefillshare.models.prompt import lay_out
from prefillshare.models.tiny import tiny_tokenizer

MESSAGES = [
    {"role": "system", "content": "the context"},
    {"role": "user", "content": "do it"},
]


def test_layout_and_boundaries() -> None:
    tokenizer = tiny_tokenizer()
    last = lay_out(tokenizer, MESSAGES, "you ship", "last_token")
    suffix = lay_out(tokenizer, MESSAGES, "you ship", "suffix")
    text = tokenizer.decode(list(last.token_ids))
    expected = "<|system|>the context<|end|><|user|>do it<|end|>"
    assert text == expected + "<|user|>you ship<|end|><|assistant|>"
    assert last.token_ids == suffix.token_ids
    assert tokenizer.decode(list(last.remainder)) == "<|assistant|>"
    # The suffix's role token is the first that two agents could differ in.
    assert tokenizer.decode(list(suffix.token_ids[: suffix.boundary])) == expected


def test_two_agents_share_all_before_their_suffixes() -> None:
    tokenizer = tiny_tokenizer()
    one = lay_out(tokenizer, MESSAGES, "you ship", "suffix")
    two = lay_out(tokenizer, MESSAGES, "I bill", "suffix")
    shared = one.token_ids[: one.boundary]
    assert shared == two.token_ids[: two.boundary]
    assert one.shared_tokens == two.shared_tokens == one.boundary


def test_no_suffix_leaves_the_generation_prompt_to_the_decoder() -> None:
    prompt = lay_out(tiny_tokenizer(), MESSAGES, "", "suffix")
    assert prompt.boundary == len(prompt.token_ids) - 1


def test_no_messages_are_refused() -> None:
    with pytest.raises(DataError, match="at least one message"):
        lay_out(tiny_tokenizer(), [], "x", "last_token")


def test_a_template_that_ignores_the_messages_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages | length }}"
    with pytest.raises(DataError, match="must render the messages in order"):
        lay_out(tokenizer, MESSAGES, "x", "suffix")
