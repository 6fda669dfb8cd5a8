"""The accuracy experiment in small: answers that are generated, kept and printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefillshare.bench.accuracy.experiment import run_accuracy
from prefillshare.bench.accuracy.page import _answers_verdicts, accuracy_page
from prefillshare.bench.accuracy.run import Run
from prefillshare.bench.accuracy.scoring import cells
from prefillshare.bench.accuracy.settings import AccuracySettings
from prefillshare.bench.accuracy.verdicts import compare_answers
from prefillshare.evals.answers import Answers

CASES = {"kind": "casefile", "agent": "shipping", "records": 3, "questions": 2}
EXPERIMENT: dict[str, Any] = {
    "title": "Answers in small",
    "decoder": {"steps": 1, "dtype": "float64"},
    "tasks": [
        {
            "train": {**CASES, "contexts": 1},
            "test": [{**CASES, "contexts": 3, "seed": 1000}],
        }
    ],
    "systems": {
        "own": {
            "train": {"prefill": "own"},
            "readings": {
                "naive": {"prefill": "shared"},
                "recompute": {"prefill": "recompute", "recompute": [0, 1]},
            },
        },
        "cached": {},
    },
}
ENVIRONMENT = dict.fromkeys(("commit", "torch", "transformers", "cpu_count", "cpu"))


def test_answers_are_generated_once_and_marked(
    tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {**EXPERIMENT, "model": tiny_directory, "output": tmp_path}
    plain = AccuracySettings.model_validate(fields)
    assert run_accuracy(plain, tiny_directory)["answers"] == {}
    # Decoders that are trained are asked without training them again.
    monkeypatch.setattr("prefillshare.bench.accuracy.runs._train", None)
    more = {**fields, "generate": 2, "max_tokens": 3}
    settings = AccuracySettings.model_validate(more)
    results = run_accuracy(settings, tiny_directory)
    # What is computed anew in part cannot be served.
    assert list(results["answers"]) == ["own", "naive", "cached"]
    for tests in results["answers"].values():
        for marks in tests.values():
            # Three tokens are no answer; two units of two samples.
            exact = marks["exact"]
            assert (exact["mean"], exact["low"], exact["n"]) == (0.0, 0.0, 4)
    run = json.loads(next(tmp_path.glob("runs/cached/seed0/run.json")).read_text())
    assert [len(each["texts"]) for each in run["answers"].values()] == [4]
    monkeypatch.setattr("prefillshare.bench.accuracy.scoring.generate_answers", None)
    assert run_accuracy(settings, tiny_directory)["answers"] == results["answers"]
    config = settings.model_dump(mode="json")
    told = "bench accuracy --set make=false --set only=[a,b] --set seeds=[0]"
    page = accuracy_page(results, config, ENVIRONMENT, told)
    assert "made by `bench accuracy --set seeds=[0]`" in page
    (test,) = results["answers"]["cached"]
    assert f"| {test} | cached | exact | 0.0% | 0.0% to 97.6% | 4 |" in page


def test_answers_are_compared_in_pairs_by_the_scorers_marks() -> None:
    """Of the samples that have the mark: the third has no name."""
    pair = {"system": "cached", "reference": "own"}
    fields = {**EXPERIMENT, "output": "x", "compare": [pair], "generate": 3}
    settings = AccuracySettings.model_validate({**fields, "margin": 0.4})

    def runs(*names: float | None) -> dict[int, Run]:
        marks = {"exact": (1.0, 1.0, 0.0), "name": names}
        answered = Answers(("a", "b", "c"), marks, (0, 1, 2))
        every = {cell.answers_key(settings) for cell in cells(settings, "cached")}
        every |= {cell.answers_key(settings) for cell in cells(settings, "own")}
        return {0: Run("key", answers=dict.fromkeys(every, answered))}

    found = {"cached": runs(1.0, 0.0, None), "own": runs(1.0, 1.0, None)}
    exact, name = compare_answers(settings, found)
    assert (exact["mark"], exact["difference"], exact["examples"]) == ("exact", 0.0, 3)
    assert (name["mark"], name["difference"], name["examples"]) == ("name", -0.5, 2)
    assert (name["system"], name["reference"], name["seeds"]) == ("cached", "own", [0])
    page = "\n".join(_answers_verdicts([exact, name], settings.margin))
    assert f"| {name['test']} | name | cached − own | -50.0 |" in page
    assert "non-inferior by 40 points?" in page
    # Answers that nobody asked for are not compared.
    plain = settings.model_copy(update={"generate": None})
    assert compare_answers(plain, found) == []
