"""The accuracy experiment in small: what is trained, kept, compared and printed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from prefillshare.bench.accuracy.experiment import run_accuracy
from prefillshare.bench.accuracy.general import general_figures
from prefillshare.bench.accuracy.settings import AccuracySettings, GeneralTests
from prefillshare.bench.accuracy.verdicts import compare
from prefillshare.bench.plots import curves, save
from prefillshare.cli import main
from prefillshare.errors import PrefillShareError
from prefillshare.evals.runner import Scores

CASES = {"kind": "casefile", "contexts": 2, "records": 6, "questions": 2}
TUNED = {"module": "tuned"}
EXPERIMENT: dict[str, Any] = {
    "title": "Two ways in small",
    "modules": {
        "tuned": {
            "steps": 1,
            "dtype": "float64",
            "tasks": [{**CASES, "agent": "refund"}],
        }
    },
    "general": {
        "tasks": [{**CASES, "agent": "locate", "seed": 1000}],
        "texts": [__file__],
        "window": 64,
    },
    "decoder": {"steps": 3, "dtype": "float64", "learning_rate": 0.01},
    "tasks": [
        {
            "train": {**CASES, "agent": agent},
            "test": [{**CASES, "agent": agent, "contexts": 3, "seed": 1000}],
        }
        for agent in ("shipping", "invoicing")
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
        "on_tuned": TUNED,
        "one_model": {"train": {"prefill": "own", "mixture": True}},
    },
    "compare": [{"system": "cached", "reference": "own"}],
    "seeds": [0, 1],
    "evaluate_every": 2,
    "curve_units": 2,
}


def settings_of(model: Path, output: Path, **changes: Any) -> AccuracySettings:
    fields = {**EXPERIMENT, "model": model, "output": output, **changes}
    return AccuracySettings.model_validate(fields)


@pytest.fixture(scope="module")
def experiment(
    tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], str]:
    """Output folder, figures and page of one run through the command line."""
    folder = tmp_path_factory.mktemp("accuracy")
    config = folder / "experiment.yaml"
    fields = {"model": str(tiny_directory), "output": str(folder / "runs")}
    config.write_text(yaml.safe_dump({**EXPERIMENT, **fields}, sort_keys=False))
    page, figures = folder / "page.md", folder / "figures.json"
    arguments = ["bench", "accuracy", "--config", str(config), "--page", str(page)]
    assert main([*arguments, "--json", str(figures)]) == 0
    results = json.loads(figures.read_text())["results"]
    return folder / "runs", results, page.read_text()


@pytest.mark.timeout(240)
def test_every_system_and_reading_is_scored_over_seeds(
    experiment: tuple[Path, dict[str, Any], str],
) -> None:
    _, results, page = experiment
    systems = results["systems"]
    assert list(systems) == [
        "own", "naive", "recompute", "cached", "on_tuned", "one_model"
    ]  # fmt: skip
    test = next(iter(systems["own"]))
    nlls = {round(tests[test]["nll"]["mean"], 10) for tests in systems.values()}
    assert len(nlls) == len(systems)
    for name, tests in systems.items():
        assert [title.split()[0] for title in tests] == ["shipping", "invoicing"]
        assert tests[test]["seeds"] == [0, 1] and tests[test]["examples"] == 6
        steps = [point["step"] for point in results["curves"][test][name]]
        assert steps == [2, 3]
        assert f"| {name} |" in page
    row = systems["cached"][test]
    assert set(row["fields"]) >= {"name", "arguments.item"}
    assert f"| {row['calibration_error']:.3f} | 6 |" in page
    items = [tests[test]["fields"]["arguments.item"] for tests in systems.values()]
    shown = " | ".join(f"{share:.1%}" for share in items)
    assert f"| arguments.item | {shown} |" in page
    assert f"| {test} | {' | '.join(systems)} |" in page
    row = results["compare"][0]
    difference = (
        systems["cached"][test]["nll"]["mean"] - systems["own"][test]["nll"]["mean"]
    )
    assert row["nll"]["mean"] == pytest.approx(difference)
    assert "![the figures above](page.svg)" in page
    # Several if the checkout changed meanwhile.
    assert sum(len(made["runs"]) for made in results["made"]) == 8
    assert results["made"][0]["made"][0]["cpu_count"] == os.cpu_count()
    (tuned, *_) = [
        entry["made"][0]["module"]
        for entry in results["made"]
        if "on_tuned, seed 0" in entry["runs"]
    ]
    assert tuned["cpu_count"] == os.cpu_count()
    assert "own, seed 1" in page
    assert "another precision or processor are not to be compared" in page
    assert len(results["compare"]) == 2 and "These are 2 tests at 5 % each" in page
    assert results["missing"] == [] and "Not run yet" not in page


def test_the_plot_shows_every_curve(
    experiment: tuple[Path, dict[str, Any], str],
) -> None:
    output, results, _ = experiment
    figure = curves(results["curves"])
    shown = [axes.get_title(loc="left") for axes in figure.axes[::2]]
    assert shown == list(results["curves"])
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["exact match, %", "NLL, nats/token"] * len(shown)
    for axes, (test, systems) in zip(
        figure.axes[::2], results["curves"].items(), strict=True
    ):
        drawn = {x.get_label(): np.asarray(x.get_ydata()) for x in axes.lines}
        assert {name: y.tolist() for name, y in drawn.items()} == {
            name: [100 * point["exact_match"] for point in points]
            for name, points in systems.items()
        }, test
    again = output / "page.svg"
    save(figure, again)
    assert again.read_bytes() == (output.parent / "page.svg").read_bytes()


def test_modules_are_tested_as_ordinary_models(
    experiment: tuple[Path, dict[str, Any], str], tiny_directory: Path
) -> None:
    output, results, page = experiment
    modules = results["modules"]
    assert list(modules) == ["base", "tuned, seed 0", "tuned, seed 1"]
    asked = GeneralTests.model_validate(EXPERIMENT["general"])
    tuned = output / "modules" / "tuned" / "seed1" / "module"
    figures = modules["tuned, seed 1"]
    assert general_figures(asked, tuned) == pytest.approx(figures)
    for test in ("perplexity", "locate"):
        assert figures[test] != modules["base"][test]
        assert figures[test] != modules["tuned, seed 0"][test]
        assert f"| {figures[test]:.3f} |" in page


def test_what_is_there_is_not_made_again(
    experiment: tuple[Path, dict[str, Any], str],
    tiny_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output, results, _ = experiment

    def refuse(*_: object) -> None:
        raise AssertionError("trained or scored again")

    monkeypatch.setattr("prefillshare.bench.accuracy.runs._train", refuse)
    monkeypatch.setattr("prefillshare.bench.accuracy.scoring.evaluate", refuse)
    again = run_accuracy(settings_of(tiny_directory, output), tiny_directory)
    assert again["systems"] == results["systems"]


def test_a_new_reading_is_scored_without_training(
    experiment: tuple[Path, dict[str, Any], str],
    tiny_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output, results, _ = experiment
    monkeypatch.setattr("prefillshare.bench.accuracy.runs._train", None)
    systems = {"cached": {"readings": {"own_cache": {"prefill": "own"}}}}
    settings = settings_of(tiny_directory, output, systems=systems, compare=[])
    added = run_accuracy(settings, tiny_directory)["systems"]
    assert added["cached"] == results["systems"]["cached"]
    assert added["own_cache"] != added["cached"]


def test_a_run_of_other_settings_is_not_mistaken(
    experiment: tuple[Path, dict[str, Any], str], tiny_directory: Path
) -> None:
    decoder = {**EXPERIMENT["decoder"], "learning_rate": 0.02}
    settings = settings_of(tiny_directory, experiment[0], decoder=decoder)
    with pytest.raises(PrefillShareError, match="made with other settings"):
        run_accuracy(settings, tiny_directory)


def test_a_module_of_other_settings_is_not_mistaken(
    experiment: tuple[Path, dict[str, Any], str], tiny_directory: Path, tmp_path: Path
) -> None:
    tuned = {**EXPERIMENT["modules"]["tuned"], "steps": 2}
    tuned["output"] = experiment[0] / "modules" / "tuned"
    settings = settings_of(tiny_directory, tmp_path, modules={"tuned": tuned})
    with pytest.raises(PrefillShareError, match="was not tuned with these settings"):
        run_accuracy(settings, tiny_directory)


def test_seeds_are_paired_by_their_number() -> None:
    def scores(*exact: float) -> Scores:
        count = len(exact)
        return Scores((1.0,) * count, exact, (0,) * count, (1,) * count, (0, 1, 2))

    same = {0: scores(1, 0, 0), 1: scores(1, 1, 0), 2: scores(1, 1, 1)}
    finals = {
        "own": {"test": {0: same[0], 1: same[1]}},
        "cached": {"test": {1: same[1], 2: same[2]}},
    }
    compared = settings_of(Path(), Path())
    (row,) = compare(compared, finals)
    assert row["seeds"] == [1] and row["exact_match"]["difference"] == 0


def test_tests_need_names_of_their_own(tmp_path: Path) -> None:
    task = {**CASES, "agent": "shipping"}
    tasks = [{"train": task, "test": [task, {**task, "seed": 1}]}]
    with pytest.raises(ValueError, match="two tests would be called shipping"):
        settings_of(tmp_path, tmp_path, tasks=tasks)


def test_an_experiment_names_only_what_it_has(tmp_path: Path) -> None:
    compare = [{"system": "cached", "reference": "full"}]
    with pytest.raises(ValueError, match="`compare` names full, which is none of own"):
        settings_of(tmp_path, tmp_path, compare=compare)
