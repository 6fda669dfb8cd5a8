"""A decoder's text on a prefilled prompt, up to a stop sequence."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from prefillshare.kv.cache import KVCache
from prefillshare.models.decoder import Decoder


@dataclass(frozen=True)
class Generation:
    """What is to be generated: a prompt cut at its boundary, and when to stop.

    Attributes:
        prefilled: the tokens that the prefill module reads.
        remainder: those that the decoder reads, at least one.
        stop: texts at which the answer ends, without them; it also ends with the text.
        temperature: 0 is greedy.
    """

    prefilled: tuple[int, ...]
    remainder: tuple[int, ...]
    stop: tuple[str, ...]
    max_tokens: int
    temperature: float = 0.0


def generate_text(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    cache: KVCache | None,
    wanted: Generation,
) -> str:
    """The decoder's answer after `wanted.remainder`, which follows `cache`.

    Args:
        cache: of `wanted.prefilled`; None if that is empty.
    """
    end: int = tokenizer.eos_token_id
    stops = [stop for stop in wanted.stop if stop]
    ids: list[int] = []
    for token in decoder.generate(
        cache or KVCache(()),
        wanted.remainder,
        max_tokens=wanted.max_tokens,
        stop_ids=frozenset({end}),
        temperature=wanted.temperature,
    ):
        ids.append(token)
        # A stop sequence may be a special token, which the answer leaves out.
        text = str(tokenizer.decode(ids))
        if any(stop in text for stop in stops):
            break
    answer = str(tokenizer.decode(ids, skip_special_tokens=True))
    return answer[: min((answer.find(s) for s in stops if s in answer), default=None)]
