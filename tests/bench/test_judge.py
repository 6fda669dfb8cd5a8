"""The judge experiment in small: who is trained, who is compared, and its page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from prefillshare.bench.judge.experiment import JudgeSettings, is_near_chance
from prefillshare.bench.judge.page import judge_page
from prefillshare.cli import main
from prefillshare.evals.consistency import (
    judge_consistency,
    judge_verdicts,
    judged,
)
from prefillshare.models.loading import load_model, load_tokenizer
from prefillshare.training.data import Tokenisation
from prefillshare.training.schemes.one_row import Own
from prefillshare.training.settings import CaseFiles

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "bench" / "judge.yaml"


@pytest.mark.timeout(240)
def test_every_judge_is_trained_and_measured(
    tiny_directory: Path, tmp_path: Path
) -> None:
    out, page = tmp_path / "out.json", tmp_path / "page.md"
    arguments = ["bench", "judge", "--config", str(CONFIG), "--page", str(page)]
    arguments += ["--json", str(out), "--note", "a quiet hour"]
    small = {"contexts": 2, "records": 3, "records_max": 4, "questions": 2}
    settings: dict[str, Any] = {
        "model": tiny_directory,
        # Not tuned at all: a judge on it is the shared one.
        "module": tiny_directory,
        "output": tmp_path / "judge",
        "decoder.steps": 3,
        "decoder.dtype": "float64",
        "decoder.learning_rate": 0.02,
    }
    for part in ("train", "test"):
        settings |= {f"{part}.{key}": value for key, value in small.items()}
    for key, value in settings.items():
        arguments += ["--set", f"{key}={value}"]
    assert main(arguments) == 0
    results = json.loads(out.read_text())["results"]
    assert list(results["systems"]) == [
        "base", "own", "naive", "shared", "tuned", "retrained"
    ]  # fmt: skip
    assert [results[k] for k in ("samples", "pairs", "contexts")] == [8, 4, 2]
    # The figures are those of the verdicts that were given.
    units = CaseFiles(agent="judge", **small, seed=1000).task().units("test")
    again = judge_consistency(judged(units), results["verdicts"], "own")
    text = page.read_text()
    for name, row in results["systems"].items():
        assert row == again[name].summary()
        assert f"| {name}: " in text
    assert results["systems"]["own"]["flips"]["mean"] == 0.0
    base = load_model(tiny_directory, torch.float64)
    read = Tokenisation(load_tokenizer(tiny_directory), "last_token", 4096)
    verdicts = judge_verdicts(Own(), base, read, units)
    assert results["verdicts"]["base"] == list(verdicts)
    assert list(results["more_flips"]) == ["naive", "shared", "tuned"]
    for name, more in results["more_flips"].items():
        flips = {n: results["systems"][n]["flips"]["mean"] for n in (name, "retrained")}
        assert more["mean"] == pytest.approx(flips[name] - flips["retrained"])
        assert f"- `{name}` flips {100 * more['mean']:+.1f} points more" in text
    # Three judges were trained, each its own way, and one again.
    losses = results["last_loss"]
    assert losses["tuned"] == losses["shared"]
    assert len(set(losses.values())) == 3
    flips = results["systems"]["shared"]["flips"]["mean"]
    assert f"| shared | {flips:.1%} |" in text and "a quiet hour" in text


def page_of(**accuracy: float) -> str:
    """Of judges whose accuracy is known to within ten points, by name."""
    rest = dict.fromkeys(
        ("order_consistency", "both_right", "says_first", "flips")
        + ("accuracy_difference", "consistency_difference"),
        {"mean": 0.5, "low": 0.4, "high": 0.6},
    )
    systems = {
        name: {**rest, "accuracy": {"mean": x, "low": x - 0.1, "high": x + 0.1}}
        for name, x in accuracy.items()
    }
    near = [name for name, each in systems.items() if is_near_chance(each["accuracy"])]
    counts = {"pairs": 4, "contexts": 2}
    results = {"systems": systems, "near_chance": near, "more_flips": {}, **counts}
    config = settings_of(control_seed=None).model_dump(mode="json")
    environment = dict.fromkeys(("commit", "torch", "transformers", "cpu_count", "cpu"))
    return judge_page(results, config, environment, "command")


def test_a_page_says_which_judges_may_be_guessing() -> None:
    text = page_of(base=0.5, own=0.64, shared=0.66)
    told = "**Near chance: `base` (50.0% right, 40.0%–60.0%), `own` (64.0% right"
    assert told in text and "`shared` (" not in text
    assert "Near chance" not in page_of(own=0.9, shared=0.8)
    assert "64 contexts of 18 records with 8 questions each" in text
    assert "These are 6 comparisons at 95 % each" in text


def settings_of(**fields: Any) -> JudgeSettings:
    judge = {"agent": "judge"}
    return JudgeSettings.model_validate({"train": judge, "test": judge, **fields})


def test_the_control_can_be_left_out() -> None:
    assert settings_of(control_seed=None).systems() == ["own", "shared"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"test": {"agent": "shipping"}}, "`test` has the agent 'shipping'"),
        ({"decoder": {"seed": 1}}, "`control_seed` 1 is the seed of the other"),
        ({"decoder": {"stepps": 1}}, "stepps"),
    ],
)
def test_what_makes_no_sense_is_refused_before_training(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        settings_of(**fields)
