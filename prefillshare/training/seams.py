"""Tokenizers that merge the end of a prompt with the beginning of its response.

Serving tokenises a prompt once and generates after it, so a token across that seam can
never be generated. Training learns what serving generates: the prompt's own tokens,
then the response's own. Where both together would have been tokenised otherwise, the
model meets a pair of tokens that ordinary text does not have there, and the user is
told.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

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
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    if found and not (together and torch.distributed.get_rank()):
        logger.warning(
            "%s: as one text, the tokenizer would merge prompt and response in %d of "
            "%d examples (such as %s); they are tokenised apart, as in serving",
            name,
            len(found),
            len(merges),
            found[0],
        )
