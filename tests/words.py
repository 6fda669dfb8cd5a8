"""A tokenizer that cuts text elsewhere than the tiny model's bytes."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Words and signs, of a small vocabulary, behind a token that begins every text."""
    words = "order 417 418 lamp Lyon bed Oslo ship list all to What is Name a town"
    words += " Ghent which orders the first where user system assistant answer end 2 4"
    signs = [*" :;,.?+<|>", "\n"]
    known = ["<s>", "</s>", "?unk", *words.split(), *signs]
    vocabulary = {word: i for i, word in enumerate(known)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?unk"))
    parts = Regex(r"\w+|\s|[^\w\s]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(parts, "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    )
