"""What an accuracy page says of tasks, modules and machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prefillshare.bench.accuracy.page import _verdicts
from prefillshare.bench.accuracy.setup import made, setup
from prefillshare.bench.accuracy.verdicts import _verdict
from prefillshare.evals.runner import Scores
from tests.bench.test_accuracy import settings_of

HERE = {"commit": "a", "torch": "2", "cpu_count": 2, "cpu": "Zen"}
PAIR: dict[str, Any] = {
    "system": "cached",
    "reference": "own",
    "test": "shipping",
    "seeds": [0],
    "discordance": 0.25,
    "exact_match": {
        "difference": -0.1,
        "low": -0.2,
        "high": 0.0,
        "verdict": "inferior",
        "power": 0.5,
    },
    "nll": {"mean": 0.1, "low": 0.0, "high": 0.2},
}


def test_tasks_and_modules_are_told_with_their_sizes() -> None:
    config = settings_of(Path("model"), Path("runs")).model_dump(mode="json")
    text = "\n".join(setup(config))
    case = "contexts {}, records 6, questions 2, depths [1]"
    learned = f"- casefile (agent shipping, {case.format(2)}); tested on"
    assert f"{learned} casefile (agent shipping, {case.format(3)}, seed 1000)" in text
    module = "- `tuned`: steps 1, dtype float64; on casefile (agent refund, "
    assert f"{module}{case.format(2)})" in text
    assert "- `on_tuned`: prefill module `tuned`" in text
    assert "- `cached`: as all" in text
    assert "and each has prefill modules of its own" in text
    without = settings_of(
        Path("model"), Path("runs"), modules={}, systems={"cached": {}}, compare=[]
    )
    assert "Prefill modules" not in "\n".join(setup(without.model_dump(mode="json")))


@pytest.mark.parametrize("processors", [["Zen"], ["Zen", "Zen"], ["Zen", "Xeon"]])
def test_a_page_of_several_processors_warns(processors: list[str]) -> None:
    entries = [
        {"runs": [f"own, seed {i}"], "made": [{**HERE, "cpu": processor}]}
        for i, processor in enumerate(processors)
    ]
    text = "\n".join(made(entries))
    assert "- own, seed 0: commit a, torch 2, 2 cores of Zen\n" in text
    warns = "More than one processor made these runs (Zen, Xeon)" in text
    assert warns == (len(set(processors)) > 1)


def test_a_gpu_is_named_and_is_another_processor() -> None:
    there = {"runs": ["own, seed 0"], "made": [{**HERE, "gpu": "H100"}]}
    here = {"runs": ["own, seed 1"], "made": [HERE]}
    assert "2 cores of Zen, with H100\n" in "\n".join(made([there]))
    text = "\n".join(made([there, here]))
    assert "More than one processor made these runs (H100, Zen)" in text


@pytest.mark.parametrize(("commits", "warned"), [("aa", False), ("ab", True)])
def test_a_page_of_several_versions_of_the_code_warns(
    commits: str, warned: bool
) -> None:
    entries = [
        {"runs": [f"own, seed {i}"], "made": [{**HERE, "commit": commit}]}
        for i, commit in enumerate(commits)
    ]
    assert ("More than one version of the code" in "\n".join(made(entries))) == warned


def test_a_run_on_a_tuned_module_says_where_that_was_made() -> None:
    entry = {"runs": ["tuned, seed 0"], "made": [{**HERE, "module": HERE}]}
    place = "commit a, torch 2, 2 cores of Zen"
    line = f"- tuned, seed 0: {place} (on a module made by {place})\n"
    assert line in "\n".join(made([entry]))


def test_without_a_margin_differences_are_told_and_not_judged() -> None:
    text = "\n".join(_verdicts([PAIR], None))
    assert "| shipping | cached − own | -10.0 | -20.0 to +0.0 | 25.0% | 0 |" in text
    assert "inferior" not in text and "ower" not in text


@pytest.mark.parametrize(
    ("right", "margin", "verdict"),
    [
        (0.0, 0.01, None),
        (0.0, None, None),
        (1.0, None, None),
        (1.0, 0.6, "inconclusive"),
    ],
)
def test_there_is_a_verdict_only_where_one_is_asked_for_and_somebody_is_right(
    right: float, margin: float | None, verdict: str | None
) -> None:
    system, reference = (
        Scores((1.0, 1.0), (exact, 0.0), (1, 1), (1, 1), (0, 1))
        for exact in (right, 0.0)
    )
    row = _verdict([system], [reference], margin)
    assert row["exact_match"]["verdict"] == verdict
    shown = _verdicts([{**PAIR, **row}], 0.01)
    assert ("nothing to judge |" in "\n".join(shown)) == (verdict is None)


@pytest.mark.parametrize("tests", [0, 1, 2, 3])
def test_many_tests_are_said_to_be_many(tests: int) -> None:
    text = "\n".join(_verdicts([PAIR] * tests, 0.01))
    assert (f"These are {tests} tests at 5 % each, none" in text) == (tests > 1)
