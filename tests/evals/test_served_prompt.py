"""Rendered text is cut where the served prompt is."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefillshare.errors import ContextLengthError
from prefillshare.evals.served_prompt import ServedPrompts
from prefillshare.models.prompt import Boundary, lay_out
from prefillshare.models.record import DecoderRecord
from prefillshare.models.tiny import tiny_tokenizer
from tests.evals.merging import merging_tokenizer

TEXT = st.text("ab <|>\n", min_size=1, max_size=12)


def prompts(
    boundary: Boundary, suffix: str = "ship it", max_length: int = 4096
) -> ServedPrompts:
    record = DecoderRecord("shipping", "0" * 64, "shared", boundary, suffix)
    return ServedPrompts(tiny_tokenizer(), record, max_length)


@given(
    st.lists(TEXT, min_size=1, max_size=3),
    st.sampled_from(["last_token", "suffix"]),
    st.sampled_from(["ship it", ""]),
)
def test_a_rendered_chat_is_cut_where_the_router_cuts_it(
    contents: list[str], boundary: Boundary, suffix: str
) -> None:
    messages = [{"role": "user", "content": content} for content in contents]
    served = lay_out(tiny_tokenizer(), messages, suffix, boundary)
    cut = prompts(boundary, suffix)
    before, after = cut.cut(cut.render(messages), max_tokens=5)
    assert (before + after, len(before)) == (served.token_ids, served.boundary)


def test_an_answer_already_begun_stands_after_the_suffix() -> None:
    cut = prompts("suffix")
    begun = [
        {"role": "user", "content": "order 4"},
        {"role": "assistant", "content": "Yes,"},
    ]
    text = cut.render(begun, add_generation_prompt=False)
    assert text == "<|user|>order 4<|end|><|user|>ship it<|end|><|assistant|>Yes,"
    before, _ = cut.cut(text, max_tokens=5)
    assert tiny_tokenizer().decode(list(before)) == "<|user|>order 4<|end|>"


def test_the_last_of_several_suffixes_counts() -> None:
    cut = prompts("suffix")
    text = cut.render([{"role": "user", "content": cut.render([])}])
    before, after = cut.cut(text, max_tokens=5)
    assert tiny_tokenizer().decode(list(after)) == "<|user|>ship it<|end|><|assistant|>"


def test_text_without_the_suffix_is_shared_but_for_its_last_token(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cut = prompts("suffix")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            before, after = cut.cut("Question: x", max_tokens=5)
    assert (len(before), len(after)) == (10, 1)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "'shipping'" in caplog.text


def test_space_moved_to_the_continuation_stays_in_the_prompt() -> None:
    cut = prompts("last_token")
    ids = cut.encode("Answer: \n42")
    item = cut.continuation("Answer: \n", ids[:7], ids[7:])
    assert (item.boundary, item.scored) == (8, 4)


def test_a_token_that_the_continuation_changed_is_not_prefilled() -> None:
    record = DecoderRecord("a", "0" * 64, "shared", "last_token", "")
    cut = ServedPrompts(merging_tokenizer(), record, 100)
    # The prompt's tokens are q : " ", but " x" is one token.
    assert len(cut.encode("q: ")) == 3
    whole = cut.encode("q: xyz")
    assert len(whole) == 5
    item = cut.continuation("q: ", whole[:2], whole[2:])
    assert (item.token_ids, item.scored, item.boundary) == (tuple(whole), 3, 1)


def test_what_is_too_long_loses_its_beginning() -> None:
    cut = prompts("last_token", max_length=6)
    ids = cut.encode("abcdefgh")
    item = cut.continuation("abcde", ids[:5], ids[5:])
    assert (item.token_ids, item.boundary) == (tuple(ids[1:]), 3)
    before, after = cut.cut("abcdefgh", max_tokens=2)
    assert (before, after) == (tuple(ids[4:7]), (ids[7],))


def test_what_leaves_no_room_is_refused() -> None:
    cut = prompts("last_token", max_length=6)
    with pytest.raises(ContextLengthError, match="6 tokens to generate leave no room"):
        cut.cut("a", max_tokens=6)
    with pytest.raises(ContextLengthError, match="7 tokens, but max_length is 6"):
        cut.continuation("a", [4], [5] * 7)


@given(st.text("abc", max_size=30))
def test_windows_cover_a_text_once(text: str) -> None:
    cut = prompts("last_token", max_length=4)
    windows = list(cut.windows(text))
    assert [i for _, scored in windows for i in scored] == cut.encode(text)
    assert all(len(context) >= 1 for context, _ in windows)
    assert all(len(context) + len(scored) <= 5 for context, scored in windows)
