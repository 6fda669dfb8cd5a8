"""Tokenizers that merge text across a seam: of prompt and response, or at the boundary.

Serving tokenises a prompt once and generates after it, so a token across that seam can
never be generated. Training learns what serving generates: the prompt's own tokens,
then the response's own. Where both together would have been tokenised otherwise, the
model meets a pair of tokens that ordinary text does not have there, and the user is
told.

With `boundary: suffix` the prefill module stops where the agents' prompts part. A token
across that seam belongs to one agent's prompt alone, so the boundary stands before it,
in training as in serving, and the user is told that less is shared than was written.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from prefillshare.models.prompt import Prompt

logger = logging.getLogger(__name__)

# What is looked at on either side: merges reach no further than a word.
_PROMPT_TOKENS, _RESPONSE_CHARACTERS = 16, 64
# Characters of either side in the message.
_SHOWN = 20


def merge_at_seam(
    tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], response: str
) -> str | None:
    """The text around the seam, if it is tokenised otherwise as one; else None."""
    end = tokenizer.decode(
        list(prompt_ids[-_PROMPT_TOKENS:]), clean_up_tokenization_spaces=False
    )
    begin = response[:_RESPONSE_CHARACTERS]
    together, *apart = (
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (f"{end}{begin}", str(end), begin)
    )
    if together == apart[0] + apart[1]:
        return None
    return f"{str(end)[-_SHOWN:]!r} before {begin[:_SHOWN]!r}"


def say_merges(
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    seams: Sequence[tuple[Sequence[int], str]],
) -> None:
    """Log once how many of the `seams` merge, and one of them.

    Args:
        tokenizer: of the model.
        name: what the examples are.
        seams: each example's prompt ids and response.
    """
    merges = [merge_at_seam(tokenizer, *seam) for seam in seams]
    found = [merge for merge in merges if merge is not None]
    if found and speaks():
        logger.warning(
            "%s: as one text, the tokenizer would merge prompt and response in %d of "
            "%d examples (such as %s); they are tokenised apart, as in serving",
            name,
            len(found),
            len(merges),
            found[0],
        )


def say_boundary_merges(
    tokenizer: PreTrainedTokenizerBase, name: str, prompts: Sequence[Prompt]
) -> None:
    """Log once how many of the `prompts` merge at the boundary, and in which tokens.

    Args:
        tokenizer: that of the prompts' `token_ids`.
        name: what the examples are.
        prompts: laid out with `boundary: suffix`.
    """
    found = [prompt for prompt in prompts if prompt.merged]
    if found and speaks():
        alone, together = _across(tokenizer, found[0])
        logger.warning(
            "%s: the tokenizer merges the end of the shared text with what follows it "
            "in %d of %d prompts (such as %s into %s); the boundary stands before "
            "those tokens, which the decoder reads itself, as in serving. A template "
            "or suffix that parts them, by a newline say, shares them",
            name,
            len(found),
            len(prompts),
            alone,
            together,
        )


def _across(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt
) -> tuple[list[str], list[str]]:
    """The tokens that end the shared text by itself, and those of the prompt there."""
    alone = [str(tokenizer.decode([token])) for token in prompt.merged]
    together: list[str] = []
    for token in prompt.token_ids[prompt.shared_tokens :]:
        together.append(str(tokenizer.decode([token])))
        if len("".join(together)) >= len("".join(alone)):
            break
    return alone, together


def speaks() -> bool:
    """Whether this process is the one of a launch that tells the user."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not (together and torch.distributed.get_rank())
