"""The canonical prompt layout.

`shared context ‖ transcript so far ‖ agent suffix ‖ generation prompt`, rendered by
the prefill module's chat template and tokenised once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from prefillshare.errors import ConfigError, DataError

Boundary = Literal["last_token", "suffix"]
Message = dict[str, str]


@dataclass(frozen=True)
class SourceTokens:
    """A prompt up to the boundary in the prefill module's own tokens.

    Where a decoder has another tokenizer. `shares[t]` names the tokens here, with
    weights, that say what the decoder's token t says (`models.bridge.spans`).
    """

    token_ids: tuple[int, ...]
    shares: tuple[tuple[tuple[int, float], ...], ...]


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt: the prefill module reads `token_ids[:boundary]`.

    `shared_tokens` are those before the agent suffix: what agents have in common.
    With `source` the ids are the decoder's, and the prefill module reads those.
    `merged` are the last tokens of the shared text alone, where the tokenizer joins
    them with what follows: other tokens stand for that text, behind `shared_tokens`.
    """

    token_ids: tuple[int, ...]
    boundary: int
    shared_tokens: int
    source: SourceTokens | None = None
    merged: tuple[int, ...] = ()

    @property
    def longest(self) -> int:
        """Tokens of the prompt, or of what the prefill module reads, if more."""
        return max(
            len(self.token_ids), len(self.source.token_ids) if self.source else 0
        )

    @property
    def remainder(self) -> tuple[int, ...]:
        """The tokens that the decoder reads itself, at least one."""
        return self.token_ids[self.boundary :]


def lay_out(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    suffix: str,
    boundary: Boundary,
) -> Prompt:
    """Lay out `messages` (context first, then the transcript) for one agent.

    An empty `suffix` appends no message. With `suffix` placement the boundary is
    where the rendered prompts of two agents start to differ in tokens, so a
    tokenizer that merges across the seam moves the boundary back, never past it.

    Raises:
        DataError: no messages, or a template that renders fewer than two tokens or
            does not place the suffix last.
    """
    if not messages:
        raise DataError("a prompt needs at least one message, got none")
    full = list(messages) + ([{"role": "user", "content": suffix}] if suffix else [])
    text = render(tokenizer, full, generation=True)
    before = render(tokenizer, messages, generation=False)
    # The template writes its own special tokens.
    ids, alone = (
        tokenizer(each, add_special_tokens=False)["input_ids"]
        for each in (text, before)
    )
    shared = common_prefix(ids, alone)
    if len(ids) < 2 or shared == 0:
        raise DataError(
            f"the chat template rendered {len(ids)} tokens of which {shared} are "
            "shared; it must render the messages in order and append a generation "
            "prompt"
        )
    last = len(ids) - 1
    at = last if boundary == "last_token" else min(shared, last)
    # A template that goes on otherwise is not the tokenizer's doing.
    merged = tuple(alone[shared:]) if text.startswith(before) else ()
    return Prompt(tuple(ids), at, min(shared, last), merged=merged)


def require_generation_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise unless a prompt of the chat template ends where an answer begins.

    Either the template opens the assistant's turn when it is asked to
    (`add_generation_prompt`), or its answers follow the user's turn with no opening.
    Otherwise a decoder would have to generate the opening, which no boundary allows
    for: it is in the transcript, and in nobody's answer.

    Raises:
        ConfigError: it does neither.
    """
    question = {"role": "user", "content": "question"}
    answer = {"role": "assistant", "content": "answer"}
    try:
        prompt = render(tokenizer, [question], generation=True)
        if prompt != render(tokenizer, [question], generation=False):
            return
        transcript = render(tokenizer, [question, answer], generation=False)
    except TemplateError:
        # Such a template speaks for itself, prompt by prompt.
        return
    opening, _, _ = transcript.removeprefix(prompt).partition("answer")
    if opening.strip() or not transcript.startswith(prompt):
        raise ConfigError(
            f"the chat template writes {opening!r} before an answer in a transcript, "
            "but nothing at the end of a prompt: it ignores add_generation_prompt; "
            "supply a template (chat_template.jinja beside the model) that ends with "
            "{% if add_generation_prompt %}…{% endif %}"
        )


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, generation: bool
) -> str:
    """`messages` as the chat template writes them."""
    return str(
        tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=generation
        )
    )


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens `a` and `b` share at their beginning."""
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length
