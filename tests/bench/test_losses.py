"""Where sharing loses: every figure that is worse than own prefill's is named."""

from __future__ import annotations

from typing import Any

from prefillshare.bench.spine.losses import losses


def row(nll: float, exact: float) -> dict[str, float]:
    return {"nll": nll, "exact_match": exact}


def gap(low: float, high: float) -> dict[str, float]:
    return {"mean": (low + high) / 2, "low": low, "high": high}


def results() -> dict[str, Any]:
    return {
        "agents": ["first", "second"],
        "accuracy": {
            "full": {"first": row(0.1, 0.5), "second": row(0.1, 0.5)},
            "shared": {"first": row(0.4, 0.6), "second": row(0.1, 0.6)},
            "tuned": {"first": row(0.1, 0.5), "second": row(0.1, 0.4)},
        },
        "paired": {
            "full_minus_shared": {"first": gap(-0.4, -0.2), "second": gap(-0.1, 0.1)},
            "full_minus_tuned": {"first": gap(-0.1, 0.1), "second": gap(-0.1, 0.1)},
        },
        "ttft_by_turn_seconds": {"shared": [4.75, 1.5], "own": [3.93, 4.4]},
    }


def test_a_certain_gap_and_a_seen_one_are_told_apart() -> None:
    told = losses(results())
    assert (
        "on first, 0.400 nats and 60.0% exact match of `shared` against 0.100 nats and "
        "50.0% exact match of the ordinary fine-tune with its own prefill.\n"
    ) in told
    assert "40.0% exact match of `tuned`" in told
    assert told.count("do not differ for certain") == 1
    assert told.count("Accuracy at equal steps") == 2


def test_the_agents_that_wait_longer_are_named() -> None:
    told = losses(results())
    assert (
        "Agent 1 (first) sees its first token after 4.75 s in place of 3.93 s" in told
    )
    assert "Agent 2" not in told
