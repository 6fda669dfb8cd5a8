"""A tokenizer that merges across the seam of context and continuation."""

from __future__ import annotations

import json

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from prefillshare.models.tiny import tiny_tokenizer


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """The tiny one, but " x" is one token, as are "ab" and "abc".

    They take the numbers of bytes that no UTF-8 text has, so the model still fits.
    """
    tiny = tiny_tokenizer()
    state = json.loads(tiny.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    for merged, unused in (("Ġx", "ý"), ("ab", "þ"), ("abc", "ÿ")):
        vocabulary[merged] = vocabulary.pop(unused)
    state["model"]["merges"] = [["Ġ", "x"], ["a", "b"], ["ab", "c"]]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        eos_token=tiny.eos_token,
        pad_token=tiny.pad_token,
    )
    fast.chat_template = tiny.chat_template
    return fast
