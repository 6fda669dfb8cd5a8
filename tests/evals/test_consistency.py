"""Verdicts of a judge: what is counted, and how a verdict is reached."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from prefillshare.errors import DataError
from prefillshare.evals.consistency import (
    VERDICTS,
    Judged,
    judge_consistency,
    judge_verdicts,
    judged,
)
from prefillshare.kv.identity import ModelId
from prefillshare.models.tiny import tiny_tokenizer
from prefillshare.tasks.casefile import JUDGE, CaseFileTask
from prefillshare.training.data import Tokenisation
from prefillshare.training.schemes.cached import Cached
from prefillshare.training.schemes.one_row import Own
from tests.conftest import make_decoder

UNITS = CaseFileTask("judge", contexts=3, records=4, questions=2).units("test")
ASKED = judged(UNITS)
RIGHT = [sample.right for sample in ASKED]


def means(verdicts: list[str], unshared: list[str] = RIGHT) -> dict[str, float]:
    systems = {"mine": verdicts, "own": unshared}
    summary = judge_consistency(ASKED, systems, "own")["mine"].summary()
    return {name: interval["mean"] for name, interval in summary.items()}


def test_samples_are_in_pairs_of_both_orders() -> None:
    assert len(ASKED) == 12 and len({sample.pair for sample in ASKED}) == 6
    assert [sample.context for sample in ASKED] == [0] * 4 + [1] * 4 + [2] * 4
    assert RIGHT == [sample.answer for unit in UNITS for sample in unit]


def test_a_right_judge_is_consistent() -> None:
    assert means(RIGHT) == {
        "accuracy": 1.0,
        "order_consistency": 1.0,
        "both_right": 1.0,
        "says_first": 0.5,
        "flips": 0.0,
        "accuracy_difference": 0.0,
        "consistency_difference": 0.0,
    }


def test_a_judge_of_places_is_not() -> None:
    assert means(["second"] * 12) == {
        "accuracy": 0.5,
        "order_consistency": 0.0,
        "both_right": 0.0,
        "says_first": 0.0,
        "flips": 0.5,
        "accuracy_difference": -0.5,
        "consistency_difference": -1.0,
    }


def test_a_judge_that_is_always_wrong_is_consistent_too() -> None:
    wrong = [VERDICTS[verdict == "first"] for verdict in RIGHT]
    figures = means(wrong)
    assert figures["accuracy"] == 0.0 and figures["both_right"] == 0.0
    assert figures["order_consistency"] == 1.0 and figures["flips"] == 1.0


def test_one_flip_is_counted_once() -> None:
    flipped = ["second", *RIGHT[1:]]
    figures = means(flipped)
    assert figures["flips"] == pytest.approx(1 / 12)
    assert figures["accuracy"] == pytest.approx(11 / 12)
    assert figures["order_consistency"] == pytest.approx(5 / 6)
    # Against a judge with the same flip, nothing differs.
    again = means(flipped, flipped)
    assert again["flips"] == again["consistency_difference"] == 0.0


@given(st.lists(st.sampled_from(VERDICTS), min_size=12, max_size=12), st.randoms())
@settings(deadline=None, max_examples=30)
def test_the_order_of_the_samples_does_not_matter(said: list[str], rng: Any) -> None:
    order = list(range(12))
    rng.shuffle(order)
    shuffled = {"own": [said[i] for i in order]}
    asked = [ASKED[i] for i in order]
    (mixed,) = judge_consistency(asked, shuffled, "own").values()
    (sorted_,) = judge_consistency(ASKED, {"own": said}, "own").values()
    for name, interval in mixed.summary().items():
        assert interval["mean"] == pytest.approx(sorted_.summary()[name]["mean"])


def test_intervals_are_over_contexts() -> None:
    # Wrong in one context of three, and there in every sample.
    said = [VERDICTS[v == "first"] for v in RIGHT[:4]] + RIGHT[4:]
    (figures,) = judge_consistency(ASKED, {"own": said}, "own").values()
    assert figures.accuracy.mean == pytest.approx(2 / 3)
    # Twelve independent samples would leave it within 0.39 and 0.87.
    assert figures.accuracy.low < 0.05 and figures.accuracy.high > 0.98


def test_what_cannot_be_compared_is_named() -> None:
    with pytest.raises(DataError, match="own gave 11 verdicts"):
        judge_consistency(ASKED, {"own": RIGHT[1:]}, "own")
    with pytest.raises(DataError, match="own gave 12 verdicts .*maybe"):
        judge_consistency(ASKED, {"own": ["maybe", *RIGHT[1:]]}, "own")
    with pytest.raises(DataError, match="no verdicts of 'own'.*shared"):
        judge_consistency(ASKED, {"shared": RIGHT}, "own")
    alone = (*ASKED[:-1], Judged("another", False, "first", 2))
    with pytest.raises(DataError, match="12 samples of 7 pairs"):
        judge_consistency(alone, {"own": RIGHT}, "own")
    shipping = CaseFileTask("shipping", contexts=1, records=4, questions=2)
    with pytest.raises(DataError, match="give the units of the agent 'judge'"):
        judged(shipping.units("test"))


@pytest.mark.parametrize("own", [False, True])
def test_a_verdict_is_the_likelier_answer(
    tiny_model: PreTrainedModel, tiny_id: ModelId, own: bool
) -> None:
    judge = make_decoder(tiny_model, tiny_id, suffix=JUDGE.suffix, seed=4).model
    tokenisation = Tokenisation(tiny_tokenizer(), "last_token", 4096)
    scheme = Own() if own else Cached(tiny_model)
    unit = UNITS[0]
    (*said,) = judge_verdicts(scheme, judge, tokenisation, [unit])
    for sample, verdict in zip(unit, said, strict=True):
        both = tokenisation.group(tuple(replace(sample, answer=v) for v in VERDICTS))
        likelihoods = [_log_likelihood(tiny_model, judge, e, own) for e in both]
        assert abs(likelihoods[0] - likelihoods[1]) > 1e-4
        assert verdict == VERDICTS[likelihoods[1] > likelihoods[0]]


@torch.no_grad()
def _log_likelihood(base: Any, judge: Any, example: Any, own: bool) -> float:
    """Of one response, in two plain forward passes."""
    at = example.prompt.boundary
    ids = torch.tensor([[*example.prompt.token_ids, *example.response]])
    if own:
        logits = judge(input_ids=ids).logits[0, at:]
    else:
        with judge.disable_adapter():
            cache = judge(input_ids=ids[:, :at], use_cache=True).past_key_values
        logits = judge(input_ids=ids[:, at:], past_key_values=cache).logits[0]
    start = len(example.prompt.token_ids) - at - 1
    steps = logits[start : start + len(example.response)].log_softmax(-1)
    labels = torch.tensor(example.response)
    return float(steps.gather(1, labels[:, None]).sum())
