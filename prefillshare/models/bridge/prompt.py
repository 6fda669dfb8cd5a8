"""Prompts for a decoder whose tokenizer is not the prefill module's.

The prefill module's chat template writes the text; each tokenizer reads that text, and
the characters say which tokens belong together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from prefillshare.errors import DataError
from prefillshare.models.bridge.spans import Span, shares
from prefillshare.models.loading import load_tokenizer_of_any
from prefillshare.models.prompt import (
    Boundary,
    Message,
    Prompt,
    SourceTokens,
    common_prefix,
    render,
)


def lay_out_across(
    source: PreTrainedTokenizerBase,
    target: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    suffix: str,
    boundary: Boundary,
) -> Prompt:
    """`models.prompt.lay_out` for a decoder with the tokenizer `target`.

    The decoder's tokens begin with whatever its tokenizer puts before a text. The
    prefill module reads every token of its own that begins before the boundary: all of
    them are the prompt's.

    Args:
        source: the prefill module's tokenizer, whose template it is.

    Raises:
        DataError: there is nothing to read before the boundary.
    """
    if not messages:
        raise DataError("a prompt needs at least one message, got none")
    full = list(messages) + ([{"role": "user", "content": suffix}] if suffix else [])
    text = render(source, full, generation=True)
    ids, spans = _tokens(target, text, special=True)
    before = render(source, messages, generation=False)
    alone, alone_spans = _tokens(target, before, special=True)
    shared, last = common_prefix(ids, alone), len(ids) - 1
    at = last if boundary == "last_token" else min(shared, last)
    source_ids, source_spans = _tokens(source, text, special=False)
    begun = sum(start < spans[at][0] for start, _ in source_spans)
    if at < 1 or begun < 1:
        raise DataError(
            f"the chat template rendered {len(ids)} tokens of the decoder, of which "
            f"{at} stand before the boundary; a bridge needs some"
        )
    held = SourceTokens(
        tuple(source_ids[:begun]), shares(source_spans[:begun], spans[:at])
    )
    merged: tuple[int, ...] = ()
    if text.startswith(before):
        # What a tokenizer puts behind a text has no characters.
        rest = zip(alone[shared:], alone_spans[shared:], strict=True)
        merged = tuple(token for token, (start, stop) in rest if start < stop)
    return Prompt(tuple(ids), at, min(shared, last), held, merged)


def tokenizer_of_decoder(
    source: PreTrainedTokenizerBase, model: Path
) -> PreTrainedTokenizerBase | None:
    """The tokenizer of decoders from `model`; None if it is the prefill module's."""
    theirs = load_tokenizer_of_any(model)
    return None if theirs.get_vocab() == source.get_vocab() else theirs


def _tokens(
    tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool
) -> tuple[list[int], list[Span]]:
    encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    ids: list[int] = encoded["input_ids"]
    return ids, [(int(a), int(b)) for a, b in encoded["offset_mapping"]]
