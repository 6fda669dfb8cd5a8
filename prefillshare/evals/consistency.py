"""Does a judge change its mind when its cache is shared?

Reuse of a cache that leaves generated answers as good can still disturb a judge, whose
verdicts hang on small margins (arXiv 2601.08343). A judge is shown a right and a wrong
answer in both orders; its verdicts are compared between the orders, and with those of
an unshared judge on the same samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prefillshare.errors import DataError
from prefillshare.evals.runner import evaluate
from prefillshare.evals.statistics import Interval, mean_interval, paired_difference
from prefillshare.tasks.base import Unit
from prefillshare.training.data import Tokenisation
from prefillshare.training.schemes.base import Scheme

VERDICTS = ("first", "second")


@dataclass(frozen=True)
class Judged:
    """One sample put to a judge.

    Attributes:
        pair: which two answers; both orders of them have the same.
        swapped: in which order they stand.
        right: the verdict that is right, "first" or "second".
        context: the unit's number.
    """

    pair: str
    swapped: bool
    right: str
    context: int


@dataclass(frozen=True)
class Consistency:
    """What one system's verdicts are worth; intervals over contexts.

    Attributes:
        accuracy: the share of samples with the right verdict.
        order_consistency: the share of pairs of which the same answer is chosen in
            both orders: 0 for a judge that only looks at the place, 1/2 by chance.
        both_right: the share of pairs that are judged rightly in both orders.
        says_first: the share of samples with the verdict "first": 1/2 without bias.
        flips: the share of samples with another verdict than the unshared judge's.
        accuracy_difference: that of the unshared judge taken off, sample by sample.
        consistency_difference: likewise, pair by pair.
    """

    accuracy: Interval
    order_consistency: Interval
    both_right: Interval
    says_first: Interval
    flips: Interval
    accuracy_difference: Interval
    consistency_difference: Interval

    def summary(self) -> dict[str, dict[str, float]]:
        """Each figure as `mean`, `low` and `high`."""
        return {name: vars(interval) for name, interval in vars(self).items()}


def judged(units: Sequence[Unit]) -> tuple[Judged, ...]:
    """What the samples of `units`, in order, say of themselves in their `facts`.

    Raises:
        DataError: a sample is not one of the judge's.
    """
    asked = []
    for context, unit in enumerate(units):
        for sample in unit:
            facts = sample.facts
            if not {"pair", "swapped", "right"} <= facts.keys():
                raise DataError(
                    f"a sample's facts are {sorted(facts)}, but a judge's name its "
                    "pair, swapped and right; give the units of the agent 'judge'"
                )
            pair, swapped, right = facts["pair"], facts["swapped"], facts["right"]
            asked.append(Judged(pair, swapped, right, context))
    return tuple(asked)


def judge_verdicts(
    scheme: Scheme, judge: Any, tokenisation: Tokenisation, units: Sequence[Unit]
) -> tuple[str, ...]:
    """The verdict on each sample of `units`: the likelier of the two allowed answers.

    What is compared is the likelihood of the whole answer, end of turn included, under
    teacher forcing. So there always is a verdict, sampling adds no noise, and where an
    answer is one token it is the greedy decision between the allowed ones. A tie is
    "first".
    """
    groups = [
        tokenisation.group(
            tuple(replace(sample, answer=v) for sample in unit for v in VERDICTS)
        )
        for unit in units
    ]
    scores = evaluate(scheme, judge, groups)
    cost = [nll * n for nll, n in zip(scores.nll, scores.tokens, strict=True)]
    pairs = zip(cost[::2], cost[1::2], strict=True)
    return tuple(VERDICTS[second < first] for first, second in pairs)


def judge_consistency(
    asked: Sequence[Judged], verdicts: Mapping[str, Sequence[str]], unshared: str
) -> dict[str, Consistency]:
    """How each system judges, and how far it departs from the system `unshared`.

    Args:
        asked: the samples, both orders of every pair.
        verdicts: by system, one on each sample, in the same order.
        unshared: the system whose judge prefills for itself.

    Raises:
        DataError: verdicts are missing, or one order of a pair is.
    """
    for system, said in verdicts.items():
        if len(said) != len(asked) or not {*said} <= {*VERDICTS}:
            raise DataError(
                f"{system} gave {len(said)} verdicts ({', '.join(sorted({*said}))}) on "
                f"{len(asked)} samples; give one of {', '.join(VERDICTS)} on each"
            )
    if unshared not in verdicts:
        raise DataError(
            f"there are no verdicts of {unshared!r}; there are some of "
            f"{', '.join(verdicts)}"
        )
    pairs = _pairs(asked)
    return {
        system: _consistency(asked, pairs, said, verdicts[unshared])
        for system, said in verdicts.items()
    }


def more_flips(
    asked: Sequence[Judged],
    verdicts: Mapping[str, Sequence[str]],
    unshared: str,
    system: str,
    control: str,
) -> Interval:
    """How many more of its verdicts `system` flips than `control` does, as a share.

    Both against `unshared`, on the same samples. Where `control` is the unshared judge
    trained again, this is what sharing changes beyond what any training changes.
    """
    ours, theirs = (
        [float(a != b) for a, b in zip(verdicts[x], verdicts[unshared], strict=True)]
        for x in (system, control)
    )
    return paired_difference(ours, theirs, [sample.context for sample in asked])


def _pairs(asked: Sequence[Judged]) -> list[tuple[int, int]]:
    """The two samples of each pair, by number."""
    members: dict[str, dict[bool, int]] = {}
    for i, sample in enumerate(asked):
        members.setdefault(sample.pair, {})[sample.swapped] = i
    if len(asked) != 2 * len(members) or any(len(m) != 2 for m in members.values()):
        raise DataError(
            f"{len(asked)} samples of {len(members)} pairs; a judge's consistency "
            "needs every pair once in each order"
        )
    return [(orders[False], orders[True]) for orders in members.values()]


def _consistency(
    asked: Sequence[Judged],
    pairs: Sequence[tuple[int, int]],
    said: Sequence[str],
    unshared: Sequence[str],
) -> Consistency:
    contexts = [sample.context for sample in asked]
    pair_contexts = [contexts[one] for one, _ in pairs]
    right, theirs = _right(asked, said), _right(asked, unshared)
    same, their_same = _same(pairs, said), _same(pairs, unshared)
    flips = [float(a != b) for a, b in zip(said, unshared, strict=True)]
    return Consistency(
        mean_interval(right, contexts),
        mean_interval(same, pair_contexts),
        mean_interval([right[one] * right[two] for one, two in pairs], pair_contexts),
        mean_interval([float(verdict == "first") for verdict in said], contexts),
        mean_interval(flips, contexts),
        paired_difference(right, theirs, contexts),
        paired_difference(same, their_same, pair_contexts),
    )


def _right(asked: Sequence[Judged], said: Sequence[str]) -> list[float]:
    return [float(v == s.right) for s, v in zip(asked, said, strict=True)]


def _same(pairs: Sequence[tuple[int, int]], said: Sequence[str]) -> list[float]:
    # The answers have changed places: the same answer is another verdict.
    return [float(said[one] != said[two]) for one, two in pairs]
