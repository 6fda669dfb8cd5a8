"""The regimes in which sharing loses, as far as the spine shows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def losses(results: Mapping[str, Any]) -> str:
    """A list in Markdown: accuracy, delay, and what is known beforehand."""
    return "".join([*_accuracy(results), *_delay(results), _KNOWN])


def _accuracy(results: Mapping[str, Any]) -> Iterator[str]:
    accuracy = results["accuracy"]
    for system in ("shared", "tuned"):
        gaps = results["paired"].get(f"full_minus_{system}", {})
        for task, gap in gaps.items():
            ours, full = accuracy[system][task], accuracy["full"][task]
            certain = gap["high"] < 0
            if certain or ours["exact_match"] < full["exact_match"]:
                yield (
                    f"- Accuracy at equal steps: on {task}, {_quality(ours)} of "
                    f"`{system}` against {_quality(full)} of the ordinary fine-tune "
                    f"with its own prefill"
                    f"{'' if certain else '; the NLLs do not differ for certain'}.\n"
                )


def _delay(results: Mapping[str, Any]) -> Iterator[str]:
    turns = results["ttft_by_turn_seconds"]
    pairs = zip(results["agents"], turns["shared"], turns["own"], strict=True)
    for number, (agent, shared, own) in enumerate(pairs, 1):
        if shared > own:
            yield (
                f"- Agent {number} ({agent}) sees its first token after {shared:.2f} s "
                f"in place of {own:.2f} s: for it, sharing adds the transfer and saves "
                "no prefill.\n"
            )


def _quality(row: Mapping[str, Any]) -> str:
    return f"{row['nll']:.3f} nats and {row['exact_match']:.1%} exact match"


_KNOWN = (
    "- A context that only one agent reads: sharing saves no prefill and adds the "
    "transfer.\n"
    "- One host: decoders there could share a cache without moving it; this version "
    "moves it for every request.\n"
)
