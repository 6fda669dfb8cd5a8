"""kill -9 during training, and while a checkpoint is written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from prefillshare.models.tiny import save_tiny_model
from prefillshare.training.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "true",
}
TASK = {
    "kind": "casefile",
    "agent": "shipping",
    "contexts": 3,
    "records": 2,
    "questions": 1,
}
STEPS, EVERY, KILLED_AFTER = 60, 7, 20


def start(model: Path, output: Path) -> subprocess.Popen[str]:
    """Training as a user starts it, with dropout and AdamW."""
    config = {
        "model": str(model),
        "output": str(output),
        "steps": STEPS,
        "checkpoint_every": EVERY,
        "lora": {"rank": 2, "dropout": 0.1},
        "task": TASK,
    }
    output.mkdir(exist_ok=True)
    (output / "train.yaml").write_text(json.dumps(config))
    script = str(ROOT / "train" / "decoder.py")
    return subprocess.Popen(
        [sys.executable, script, "--config", str(output / "train.yaml")],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    )


def kill_after(process: subprocess.Popen[str], step: int) -> None:
    """SIGKILL as soon as the process says that it has done `step`."""
    with process:
        assert process.stdout is not None
        assert any(f" {step}/{STEPS} " in line for line in process.stdout)
        process.kill()
    assert process.returncode == -signal.SIGKILL


def finish(process: subprocess.Popen[str]) -> str:
    """What the process says before it ends well."""
    said, _ = process.communicate()
    assert process.returncode == 0
    return said


def metrics(output: Path) -> list[dict[str, Any]]:
    """The log without what a clock says."""
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [{**json.loads(line), "seconds": None} for line in lines]


def test_a_killed_run_resumes_and_ends_bit_equal(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", layers=1)
    whole = start(model, tmp_path / "whole")
    cut = start(model, tmp_path / "cut")
    kill_after(cut, KILLED_AFTER)
    loaded = load_checkpoint(tmp_path / "cut" / "checkpoint")
    assert loaded is not None
    assert KILLED_AFTER - EVERY < loaded[1]["step"] < STEPS
    assert not (tmp_path / "cut" / "decoder").exists()
    said = finish(start(model, tmp_path / "cut"))
    assert f" {STEPS}/{STEPS} " not in said, "it started over"
    finish(whole)
    for name in ("decoder/adapter_model.safetensors", "checkpoint/adapter.safetensors"):
        mine = (tmp_path / "cut" / name).read_bytes()
        assert mine == (tmp_path / "whole" / name).read_bytes(), name
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    assert [line["step"] for line in metrics(tmp_path / "cut")] == [
        *range(1, STEPS + 1)
    ]


def test_a_kill_while_a_checkpoint_is_written_leaves_a_whole_one(
    tmp_path: Path,
) -> None:
    """At every line of saving step 2 over step 1."""
    script = str(ROOT / "tests" / "training" / "killed.py")
    done = subprocess.run(
        [sys.executable, script, str(tmp_path)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    found = [outcome["after"] for outcome in outcomes]
    one, two = [1, 1.0], [2, 2.0]
    changed = found.index(two)
    assert changed > 0
    assert found == [one] * changed + [two] * (len(found) - changed)
    for outcome in outcomes:
        assert (outcome["next"], outcome["left"]) == ([3, 3.0], ["checkpoint"])
