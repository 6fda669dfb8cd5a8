"""Accuracy of chains whose agents really hear each other, by hand-off depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from prefillshare.evals.statistics import mean_interval
from prefillshare.tasks.casefile import Case, agent_named
from prefillshare.tasks.casefile.handoff import Said, TurnMarks, mark_chain


def chain_accuracy(
    cases: Sequence[Case], agents: Sequence[str], texts: Sequence[str]
) -> list[dict[str, Any]]:
    """What the generated answers were worth, a row for each depth.

    `right` is the share of answers that a chain without a mistake would have given,
    `given` that of those which are right given what was said before, `inherited` that
    of those which are wrong by an earlier mistake alone, and `chain` that of the
    chains without a mistake so far; `ci` has 95 % intervals over chains.

    Args:
        cases: one chain each, about its first question.
        agents: who was asked in each, in this order.
        texts: all answers, chain after chain.
    """
    asked = [agent_named(name) for name in agents]
    chains = [
        mark_chain(
            case,
            case.questions[0].record,
            [Said(*pair) for pair in zip(asked, said, strict=True)],
        )
        for case, said in zip(cases, _by_chain(texts, len(asked)), strict=True)
    ]
    return [_row(chains, i, name) for i, name in enumerate(agents)]


def _by_chain(texts: Sequence[str], agents: int) -> Iterator[Sequence[str]]:
    return (texts[i : i + agents] for i in range(0, len(texts), agents))


def _row(chains: Sequence[Sequence[TurnMarks]], i: int, agent: str) -> dict[str, Any]:
    marks = [chain[i] for chain in chains]
    shares = {
        "right": [float(mark.right) for mark in marks],
        "given": [float(mark.given) for mark in marks],
        "inherited": [float(mark.inherited) for mark in marks],
        "chain": [float(all(m.right for m in chain[: i + 1])) for chain in chains],
    }
    intervals = {name: mean_interval(values) for name, values in shares.items()}
    return {
        "depth": i + 1,
        "agent": agent,
        **{name: interval.mean for name, interval in intervals.items()},
        "ci": {name: [x.low, x.high] for name, x in intervals.items()},
        "n": len(marks),
    }
