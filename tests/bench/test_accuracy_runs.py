"""Runs of the accuracy experiment: how they are kept, recognised and shared out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from prefillshare.bench.accuracy.experiment import _curves, run_accuracy
from prefillshare.bench.accuracy.page import _curve
from prefillshare.bench.accuracy.plan import plans_of
from prefillshare.bench.accuracy.run import Run
from prefillshare.errors import CheckpointError, PrefillShareError
from prefillshare.evals.runner import Scores
from prefillshare.tasks.toolcalls import ToolCalls
from prefillshare.training.keys import chosen, chosen_task
from prefillshare.training.settings import FREE_SETTINGS, CaseFiles, TrainSettings
from tests.bench.test_accuracy import TUNED, settings_of
from tests.training.test_checkpoint import no_file_beyond


def test_kept_scores_make_the_page_without_decoders_or_modules(
    tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems = {"own": {"train": {"prefill": "own"}}, "on_tuned": TUNED}
    parts = {"scores": tmp_path / "scores", "systems": systems, "compare": []}
    settings = settings_of(tiny_directory, tmp_path / "work", **parts)
    results = run_accuracy(settings, tiny_directory)
    shutil.rmtree(tmp_path / "work")
    with monkeypatch.context() as patch:
        patch.setattr("prefillshare.bench.accuracy.runs._make", None)
        patch.setattr("prefillshare.bench.accuracy.general.general_figures", None)
        again = run_accuracy(settings, tiny_directory)
    for system in systems:
        for test, figures in results["systems"][system].items():
            kept = again["systems"][system][test]
            assert kept["nll"] == pytest.approx(figures["nll"], rel=1e-5)
            assert kept["exact_match"] == figures["exact_match"]
    assert again["modules"] == results["modules"]
    # A test that was not scored then needs the decoders.
    more = run_accuracy(settings.model_copy(update={"test_units": 2}), tiny_directory)
    assert more["systems"]["own"]["shipping (records=6)"]["examples"] == 4


@pytest.mark.parametrize("there", ["scores", "run", "module"])
def test_what_belongs_to_another_experiment_ends_this_one_before_it_trains(
    tiny_directory: Path, tmp_path: Path, there: str
) -> None:
    """In the way of the last system's last seed."""
    systems = {"own": {"train": {"prefill": "own"}}, "on_tuned": TUNED}
    parts = {"scores": tmp_path / "scores", "systems": systems, "compare": []}
    settings = settings_of(tiny_directory, tmp_path / "work", **parts)
    plan = plans_of(settings, tiny_directory)[-1]
    assert (plan.system, plan.training.seed) == ("on_tuned", 1)
    assert plan.kept is not None and plan.tuning is not None
    other = Run("of another experiment")
    if there == "module":
        (plan.tuning.output / "module").mkdir(parents=True)
    else:
        other.save(plan.kept if there == "scores" else plan.work)
    before = set(tmp_path.rglob("*"))
    said = "not tuned with these" if there == "module" else "made with other settings"
    with pytest.raises(PrefillShareError, match=said):
        run_accuracy(settings, tiny_directory)
    assert set(tmp_path.rglob("*")) == before
    # Whoever makes the other systems is not concerned.
    rest = settings.model_copy(update={"only": ["own"], "seeds": [0]})
    assert run_accuracy(rest, tiny_directory)["missing"] == ["on_tuned, seed 0"]


def test_a_finished_run_that_was_not_published_is(
    tiny_directory: Path, tmp_path: Path
) -> None:
    parts = {"systems": {"cached": {}}, "seeds": [0], "compare": [], "modules": {}}
    settings = settings_of(tiny_directory, tmp_path / "work", **parts)
    run_accuracy(settings, tiny_directory)
    kept = settings.model_copy(update={"scores": tmp_path / "scores"})
    run_accuracy(kept, tiny_directory)
    (plan,) = plans_of(kept, tiny_directory)
    assert plan.kept is not None
    assert Run.load(plan.kept, plan.key).finals.keys() == plan.load().finals.keys()


def test_a_run_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "scores" / "run.json"
    Run("key").publish(path)
    before = path.read_bytes()
    long = Run("key", seconds=[float(i) for i in range(10_000)])
    with (
        no_file_beyond(len(before) + 4_000),
        pytest.raises(CheckpointError, match="run.json could not be written.*free"),
    ):
        long.publish(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    long.publish(path)
    assert Run.load(path, "key").seconds == long.seconds


def test_a_run_says_every_place_it_was_made_in() -> None:
    run = Run("key")
    for commit in ("a", "b", "b"):
        run.started({"commit": commit})
    assert run.made == [{"commit": "a"}, {"commit": "b"}]


def test_two_processes_do_not_train_in_one_folder(
    tiny_directory: Path, tmp_path: Path
) -> None:
    settings = settings_of(tiny_directory, tmp_path, only=["cached"], seeds=[0])
    folder = settings.training("cached", 0, tiny_directory).output
    folder.mkdir(parents=True)
    with (
        FileLock(folder / "lock"),
        pytest.raises(PrefillShareError, match="another process works in"),
    ):
        run_accuracy(settings, tiny_directory)


def test_data_counts_by_its_contents(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_text("one")
    second.write_text("one")
    keys = [chosen_task(ToolCalls(file=file)) for file in (first, second)]
    assert keys[0] == keys[1]
    second.write_text("another")
    assert chosen_task(ToolCalls(file=second)) != keys[0]


def test_a_resumed_curve_has_every_step_once(tmp_path: Path) -> None:
    run = Run("key")
    for step, exact in ((2, 0.0), (4, 0.0), (2, 1.0)):
        run.note(step, "own", "test", Scores((1.0,), (exact,), (0,), (1,), (0,)))
    run.save(tmp_path / "run.json")
    points = Run.load(tmp_path / "run.json", "key").curve["own"]["test"]
    assert points == [{"step": 2, "nll": 1.0, "exact_match": 1.0}]


def test_a_test_that_was_added_later_has_the_curve_of_those_that_know_it() -> None:
    settings = settings_of(
        Path("model"), Path("runs"), modules={}, systems={"cached": {}}, compare=[]
    )
    scores = Scores((0.5,), (1.0,), (1,), (1,), (0,))
    early, late = Run("key"), Run("key")
    for run, tests in ((early, ["old"]), (late, ["old", "new"])):
        for test in tests:
            run.note(10, "cached", test, scores)
    late.note(20, "cached", "new", scores)
    curves = _curves(settings, {"cached": {0: early, 1: late}})
    found = {
        test: [(point["step"], point["seeds"]) for point in curve["cached"]]
        for test, curve in curves.items()
    }
    assert found == {"old": [(10, [0, 1])], "new": [(10, [1]), (20, [1])]}


def test_a_point_that_not_all_seeds_have_names_those_that_do() -> None:
    points = [
        {"step": step, "exact_match": 0.5, "nll": 1.0, "seeds": seeds}
        for step, seeds in ((10, [0]), (20, [0, 1]))
    ]
    row = _curve("test", {"cached": points}).splitlines()[-1]
    assert row == "| cached | 50% (1.000), seed 0 | 50% (1.000) |"


def test_without_making_the_page_says_what_is_missing(
    tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems = {"own": {"train": {"prefill": "own"}}, "on_tuned": TUNED}
    settings = settings_of(tiny_directory, tmp_path, systems=systems, compare=[])
    run_accuracy(
        settings.model_copy(update={"only": ["own"], "seeds": [0]}), tiny_directory
    )
    monkeypatch.setattr("prefillshare.bench.accuracy.runs._make", None)
    monkeypatch.setattr("prefillshare.bench.accuracy.general.general_figures", None)
    shutil.rmtree(tmp_path / "modules", ignore_errors=True)
    idle = settings.model_copy(update={"make": False})
    results = run_accuracy(idle, tiny_directory)
    assert list(results["systems"]) == ["own"] and results["modules"] == {}
    assert results["missing"] == ["on_tuned, seed 0", "own, seed 1", "on_tuned, seed 1"]


def test_a_run_that_was_cut_short_shows_its_curve_and_counts_as_missing(
    tiny_directory: Path, tmp_path: Path
) -> None:
    parts = {"scores": tmp_path / "scores", "systems": {"own": {}, "cut": {}}}
    settings = settings_of(tiny_directory, tmp_path, seeds=[0], compare=[], **parts)
    run_accuracy(settings, tiny_directory)
    cut = plans_of(settings, tiny_directory)[1]
    shutil.rmtree(cut.training.output)
    run = cut.load()
    steps = len(run.seconds)
    assert cut.kept is not None and steps > 1
    run.trained, run.finals, run.seconds = False, {}, run.seconds[:1]
    run.publish(cut.kept)
    idle = settings.model_copy(update={"make": False})
    results = run_accuracy(idle, tiny_directory)
    assert list(results["systems"]) == ["own"]
    assert results["missing"] == ["cut, seed 0 (cut short after 1 steps)"]
    assert all({"own", "cut"} == curves.keys() for curves in results["curves"].values())
    assert results["made"][0]["runs"] == ["own, seed 0", "cut, seed 0"]
    # Made anew, it has the seconds of each step once.
    again = run_accuracy(settings, tiny_directory)
    assert again["missing"] == [] and len(cut.load().seconds) == steps


def test_a_key_says_what_was_chosen() -> None:
    task = CaseFiles(agent="shipping")
    wanted = {"kind": "casefile", "agent": "shipping", "depths": [1]}
    assert chosen_task(task) == wanted
    assert chosen_task(task.model_copy(update={"seed": 1}))["seed"] == 1
    plain = TrainSettings(model=Path("a"), output=Path("b"), task=task)
    listed = plain.model_copy(update={"task": None, "tasks": [task]})

    def of(settings: TrainSettings) -> dict[str, Any]:
        return chosen(settings, settings.every_task(), FREE_SETTINGS)

    kept = of(plain)
    assert kept == {"tasks": [chosen_task(task)]}
    assert of(listed) == kept
    other = of(plain.model_copy(update={"steps": 7, "resume": False}))
    assert other == {"tasks": [chosen_task(task)], "steps": 7}


def test_systems_can_be_shared_out_over_processes(
    tiny_directory: Path, tmp_path: Path
) -> None:
    systems = {"own": {"train": {"prefill": "own"}}, "cached": {}}
    parts = {"systems": systems, "seeds": [0], "compare": [], "modules": {}}
    some = settings_of(tiny_directory, tmp_path, only=["cached"], **parts)
    results = run_accuracy(some, tiny_directory)
    assert list(results["systems"]) == ["cached"]
    assert results["missing"] == ["own, seed 0"]
    rest = settings_of(tiny_directory, tmp_path, only=["own"], **parts)
    assert run_accuracy(rest, tiny_directory)["missing"] == []


def test_what_was_trained_in_one_pass_is_scored_as_it_is_served(
    tiny_directory: Path, tmp_path: Path
) -> None:
    """The two paths train the same decoder, which then reads the same cache."""
    systems = {"cached": {}, "alora": {"train": {"path": "one_pass"}}}
    parts = {"systems": systems, "seeds": [0], "compare": [], "modules": {}}
    settings = settings_of(tiny_directory, tmp_path, **parts)
    found = run_accuracy(settings, tiny_directory)["systems"]
    for test, figures in found["cached"].items():
        assert found["alora"][test]["nll"]["mean"] == pytest.approx(
            figures["nll"]["mean"], rel=1e-4
        )
