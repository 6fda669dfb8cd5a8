"""What the hand-off costs: bridging a prompt beside prefilling it again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from prefillshare.kv.cache import KVCache
from prefillshare.models.bridge.bridge import Bridge
from prefillshare.models.bridge.spans import Alignment
from prefillshare.models.prefill import PrefillModule
from prefillshare.training.bridges.ends import Ends
from prefillshare.training.data import Example


def hand_off_cost(
    ends: Ends, example: Example, bridge: Bridge, *, tokens: int = 1000, rounds: int = 5
) -> dict[str, Any]:
    """Times of both ways for a prompt of `tokens` of the decoder's tokens, in turn.

    FLOPs are those of the weights, two for each and every token; attention, which only
    own prefill has, comes on top.

    Args:
        example: its prompt, over and over, is what is bridged.

    Returns medians and ranges in seconds, their ratio, and FLOPs.
    """
    own = PrefillModule(ends.target)
    ids = _over_and_over(example.prefill_ids, tokens)
    alignment, read = _repeated(example, tokens)
    cache = _any_cache(ends, read)
    ways: dict[str, Callable[[], object]] = {
        "bridge": lambda: bridge.carry(cache, ids, alignment),
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


def _over_and_over(ids: Sequence[int], tokens: int) -> list[int]:
    return (list(ids) * -(-tokens // len(ids)))[:tokens]


def _repeated(example: Example, tokens: int) -> tuple[Alignment | None, int]:
    """The prompt's alignment, over and over, and how many source tokens that reads."""
    source = example.prompt.source
    if source is None:
        return None, tokens
    rows = []
    for i in range(tokens):
        lap, at = divmod(i, len(source.shares))
        before = lap * len(source.token_ids)
        rows.append(tuple((before + j, weight) for j, weight in source.shares[at]))
    return Alignment.of(rows), 1 + max(j for row in rows for j, _ in row)


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
