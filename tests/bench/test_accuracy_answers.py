"""The accuracy experiment in small: answers that are generated, kept and printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefillshare.bench.accuracy.experiment import run_accuracy
from prefillshare.bench.accuracy.page import accuracy_page
from prefillshare.bench.accuracy.settings import AccuracySettings

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
    page = accuracy_page(results, config, ENVIRONMENT, "command")
    (test,) = results["answers"]["cached"]
    assert f"| {test} | cached | exact | 0.0% | 0.0% to 97.6% | 4 |" in page
