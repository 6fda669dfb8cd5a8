"""What the hand-off costs: bridging a prompt beside prefilling it again."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from prefillshare.kv.cache import KVCache
from prefillshare.models.bridge.bridge import Bridge
from prefillshare.models.bridge.spans import Alignment
from prefillshare.models.prefill import PrefillModule
from prefillshare.training.bridges.ends import Ends


def hand_off_cost(
    ends: Ends, bridge: Bridge, *, tokens: int = 1000, rounds: int = 5
) -> dict[str, Any]:
    """Times of both ways for a prompt of `tokens` of the decoder's tokens, in turn.

    Where the tokenizers differ, each of the decoder's tokens is made of two: as much
    work as an alignment can be expected to be. FLOPs are those of the weights, two for
    each and every token; attention, which only own prefill has, comes on top.

    Returns medians and ranges in seconds, their ratio, and FLOPs.
    """
    vocabulary = int(ends.target.config.get_text_config().vocab_size)
    ids = [i % (vocabulary - 10) + 5 for i in range(tokens)]
    own = PrefillModule(ends.target)
    alignment = None
    if ends.tokenisation.decoder is not None:
        halves = [((2 * i, 0.5), (2 * i + 1, 0.5)) for i in range(tokens)]
        alignment = Alignment.of(halves)
    cache = _any_cache(ends, tokens if alignment is None else 2 * tokens)
    ways: dict[str, Callable[[], object]] = {
        "bridge": lambda: bridge.carry(cache, alignment, tokens),
        "own_prefill": lambda: own.prefill(ids),
    }
    seconds = _in_turn(ways, rounds)
    found = {name: _summary(times) for name, times in seconds.items()}
    flops = {
        "bridge": 2 * bridge.parameter_count * tokens,
        "own_prefill": 2 * _read_parameters(ends.target) * tokens,
    }
    return {
        "tokens": tokens,
        "rounds": rounds,
        "seconds": found,
        "speedup": found["own_prefill"]["median"] / found["bridge"]["median"],
        "flops": flops,
    }


def _any_cache(ends: Ends, tokens: int) -> KVCache:
    """What stands in a cache does not change how long it takes to map it."""
    part = PrefillModule(ends.source).prefill([7] * min(tokens, 64))
    parts = [part] * -(-tokens // part.tokens)
    return KVCache.concatenate(parts).slice(0, tokens)


def _in_turn(
    ways: dict[str, Callable[[], object]], rounds: int
) -> dict[str, list[float]]:
    """Each way once a round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def _summary(times: list[float]) -> dict[str, float]:
    return {"median": median(times), "min": min(times), "max": max(times)}


def _read_parameters(model: Any) -> int:
    """Weights that every prompt token goes through: not the embeddings or the head."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    not_read = {id(end.weight) for end in ends if end is not None}
    return sum(p.numel() for p in model.parameters() if id(p) not in not_read)
