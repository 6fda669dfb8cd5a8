"""Models split over two processes, over gloo: the same results as whole on one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prefillshare.cli import main
from prefillshare.models.tiny import save_tiny_model
from tests.training.sharded import trainer_of

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "accelerate"
TASK = {"kind": "casefile", "contexts": 5, "records": 2, "questions": 1}
SHIPPING, INVOICING = ({**TASK, "agent": each} for each in ("shipping", "invoicing"))
REFUND, LOCATE = ({**TASK, "agent": each} for each in ("refund", "locate"))
# Two processes read two units each, in a pass each; one process all four at once.
SPLIT, AT_ONCE = {"units": 2, "units_per_pass": 1}, {"units": 4}

Run = dict[str, Any]
# Steps of SGD in fp64, 20 unless said otherwise.
EQUAL: dict[str, Run] = {
    "lora": {"task": SHIPPING},
    "full": {
        "task": SHIPPING,
        "method": "full",
        "gradient_checkpointing": True,
        "learning_rate": 0.02,
    },
    "two": {"tasks": [SHIPPING, INVOICING], "prefill": "icarus", "steps": 6},
    "module": {"tasks": [REFUND, LOCATE], "mode": "mixture", "steps": 6},
}
# AdamW, and dropout that differs between the processes: cut after 5 of 6 steps.
CUT: Run = {
    "task": SHIPPING,
    "steps": 6,
    "checkpoint_every": 3,
    "optimizer": "adamw",
    "lora": {"rank": 2, "dropout": 0.2},
}


def run(model: Path, output: Path, **changes: Any) -> Run:
    return {
        "model": str(model),
        "output": str(output),
        "dtype": "float64",
        "optimizer": "sgd",
        "learning_rate": 0.05,
        "steps": 20,
        "lora": {"rank": 2, "alpha": 4},
        "batch": SPLIT,
        **changes,
    }


def configured(name: str) -> list[str]:
    """The launcher's options for a configuration of ours."""
    return ["--config_file", str(CONFIGS / name)]


# Whole models on two processes, as `prefillshare train --processes 2` has them.
PLAIN = ["--num_processes", "2", "--num_machines", "1", "--multi_gpu"]
PLAIN += ["--mixed_precision", "no", "--dynamo_backend", "no"]


def launch(options: list[str], runs: list[Run], folder: Path) -> list[dict[str, Any]]:
    """Train `runs` on two processes as users start them; what came of each."""
    (folder / "runs.json").write_text(json.dumps(runs))
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += [*options, "--main_process_port", "0"]
    command += [str(ROOT / "tests/training/sharded.py")]
    command += [str(folder / "runs.json"), str(folder / "results.json")]
    environment = {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    results: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())
    return results


def cut_and_whole(model: Path, folder: Path) -> list[Run]:
    """A run that is cut, that run again, and the same uncut."""
    cut = run(model, folder / "cut", **CUT)
    whole = run(model, folder / "uncut", **CUT)
    return [
        {"settings": cut, "cut_after": 5},
        {"settings": cut},
        {"settings": whole},
    ]


def saved_weights(output: Path) -> dict[str, torch.Tensor]:
    """Of all results under `output`, by file and name."""
    files = sorted(
        each
        for each in output.rglob("*.safetensors")
        if each.parent.name in ("decoder", "module")
    )
    assert files
    return {
        f"{file.relative_to(output)}:{name}": tensor
        for file in files
        for name, tensor in load_file(file).items()
    }


def names_of(output: Path) -> list[str]:
    return sorted(str(each.relative_to(output)) for each in output.rglob("*"))


def assert_equal_results(mine: Path, theirs: Path, band: float) -> None:
    assert names_of(mine) == names_of(theirs)
    weights, expected = saved_weights(mine), saved_weights(theirs)
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=band)


def assert_same_as_one_process(
    result: dict[str, Any], settings: Run, folder: Path, band: float
) -> None:
    """The same run, whole and on one process, ends at the same place."""
    whole = {**settings, "output": str(folder), "batch": AT_ONCE}
    losses: list[float] = []
    trainer_of(whole).run(lambda entry: losses.append(entry.loss))
    assert max(losses) - min(losses) > 1000 * band
    assert result["losses"] == pytest.approx(losses, rel=0, abs=band)
    assert_equal_results(Path(settings["output"]), folder, band)


def assert_cut_makes_no_difference(results: list[dict[str, Any]], folder: Path) -> None:
    cut, resumed, uncut = results
    assert cut["losses"][:3] + resumed["losses"] == uncut["losses"]
    assert len(resumed["losses"]) == 3
    assert_equal_results(folder / "cut", folder / "uncut", 0.0)


@pytest.mark.timeout(400)
def test_fsdp2_ends_where_one_process_with_whole_models_does(
    tiny_directory: Path, tmp_path: Path
) -> None:
    equal = {
        name: run(tiny_directory, tmp_path / name, **changes)
        for name, changes in EQUAL.items()
    }
    hybrid = save_tiny_model(
        tmp_path / "hybrid", architecture="lfm2", dtype=torch.float64
    )
    refused: list[Run] = [
        {"task": SHIPPING, "prefill": "recompute", "recompute": [0, 1]},
        {"tasks": [REFUND, LOCATE], "mode": "joint"},
        {"task": SHIPPING, "compile": True},
        {"model": str(hybrid), "task": SHIPPING},
        {"model": str(hybrid), "tasks": [REFUND, LOCATE], "mode": "mixture"},
    ]
    runs = cut_and_whole(tiny_directory, tmp_path)
    runs += [{"settings": settings} for settings in equal.values()]
    usual = run(tiny_directory, tmp_path / "no")
    runs += [{"settings": {**usual, **changes}} for changes in refused]
    results = launch(configured("fsdp2.yaml"), runs, tmp_path)
    assert_cut_makes_no_difference(results[:3], tmp_path)
    for settings, result in zip(equal.values(), results[3:], strict=False):
        assert result["held"] == pytest.approx({"parameters": 0.5, "optimizers": 0.5})
        folder = tmp_path / "one" / Path(settings["output"]).name
        assert_same_as_one_process(result, settings, folder, 1e-8)
    errors = [result["error"] for result in results[3 + len(equal) :]]
    assert [error.split(",")[0].split(";")[0] for error in errors] == [
        "ConfigError: `prefill: recompute` is set",
        "ConfigError: `mode: joint` is set",
        "ConfigError: `compile` does not go with FSDP",
        f"ConfigError: {hybrid} has recurrent layers",
        f"ConfigError: {hybrid} has recurrent layers",
    ]


@pytest.mark.timeout(400)
def test_deepspeed_ends_where_one_process_with_whole_models_does(
    tiny_directory: Path, tmp_path: Path
) -> None:
    """Within 1e-6: its optimizers are in fp32."""
    equal = {
        name: run(tiny_directory, tmp_path / name, **EQUAL[name])
        for name in ("lora", "full")
    }
    runs = cut_and_whole(tiny_directory, tmp_path)
    runs += [{"settings": settings} for settings in equal.values()]
    results = launch(configured("deepspeed.yaml"), runs, tmp_path)
    assert_cut_makes_no_difference(results[:3], tmp_path)
    for settings, result in zip(equal.values(), results[3:], strict=True):
        assert result["held"]["optimizers"] == pytest.approx(0.5, abs=0.01)
        folder = tmp_path / "one" / Path(settings["output"]).name
        assert_same_as_one_process(result, settings, folder, 1e-6)


@pytest.mark.timeout(240)
def test_two_processes_with_whole_models_resume(
    tiny_directory: Path, tmp_path: Path
) -> None:
    results = launch(PLAIN, cut_and_whole(tiny_directory, tmp_path), tmp_path)
    assert_cut_makes_no_difference(results, tmp_path)
    assert results[-1]["held"] == {"parameters": 1.0, "optimizers": 1.0}
    state = torch.load(tmp_path / "cut/checkpoint/state.pt", weights_only=True)
    # Dropout differs between the two, so a generator each is resumed.
    first, second = state["rng"][0]
    assert not torch.equal(first, second)


@pytest.mark.timeout(240)
def test_the_command_takes_an_accelerate_configuration(
    tiny_directory: Path, tmp_path: Path
) -> None:
    settings = run(tiny_directory, tmp_path / "run", task=SHIPPING)
    settings |= {"steps": 1, "checkpoint_every": 1}
    (tmp_path / "train.yaml").write_text(json.dumps(settings))
    arguments = ["train", "--config", str(tmp_path / "train.yaml")]
    assert main([*arguments, "--accelerate", str(CONFIGS / "fsdp2.yaml")]) == 0
    state = torch.load(tmp_path / "run/checkpoint/state.pt", weights_only=True)
    there = json.loads(state["settings"])
    assert (there["sharding"], there["processes"]) == ("fsdp2", 2)


def test_an_accelerate_configuration_that_is_missing_is_named(
    tiny_directory: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--set", f"model={tiny_directory}"]
    arguments += ["--set", f"output={tmp_path}/run"]
    arguments += ["--set", "task={kind: casefile, agent: shipping}"]
    assert main([*arguments, "--accelerate", f"{tmp_path}/none.yaml"]) == 2
    assert "none.yaml: no such accelerate configuration" in capfd.readouterr().err
