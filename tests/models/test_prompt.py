"""The canonical layout: context, transcript, suffix, generation prompt."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from prefillshare.errors import ConfigError, DataError
from prefillshare.models.loading import load_tokenizer
from prefillshare.models.prompt import lay_out, require_generation_prompt
from prefillshare.models.tiny import save_tiny_model, tiny_tokenizer

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


CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
)
# The answer follows the user's turn: nothing opens it.
INSTRUCT = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[I] {{ m['content'] }} [/I]"
    "{% else %} {{ m['content'] }}<|end|>{% endif %}{% endfor %}"
)
FORGETFUL = (
    "{% for m in messages[:1] %}{{ m['content'] }}{% endfor %}!{{ messages | length }}"
)


def with_template(template: str) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "opening"), [(CHATML, "<|assistant|>"), (FORGETFUL, "question!2")]
)
def test_a_template_without_a_generation_prompt_is_refused_when_it_is_loaded(
    tmp_path: Path, template: str, opening: str
) -> None:
    directory = save_tiny_model(tmp_path)
    with_template(template).save_pretrained(directory)
    with pytest.raises(ConfigError) as caught:
        load_tokenizer(directory)
    assert f"writes {opening!r} before an answer" in str(caught.value)
    assert "ends with {% if add_generation_prompt %}" in str(caught.value)


def test_a_template_whose_answers_need_no_opening_is_laid_out_exactly() -> None:
    tokenizer = with_template(INSTRUCT)
    require_generation_prompt(tokenizer)
    prompt = lay_out(tokenizer, [{"role": "user", "content": "hi"}], "", "last_token")
    assert tokenizer.decode(list(prompt.token_ids)) == "[I] hi [/I]"
    assert tokenizer.decode(list(prompt.remainder)) == "]"


def test_a_template_that_refuses_the_question_is_judged_by_its_prompts() -> None:
    require_generation_prompt(with_template("{{ raise_exception('no system') }}"))
