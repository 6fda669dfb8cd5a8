"""Training as users start it: through accelerate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from prefillshare.cli import main
from prefillshare.models.decoder import DecoderRecord


@pytest.mark.timeout(240)
def test_accelerate_launch_trains_saves_and_reports(
    tiny_directory: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = {
        "model": str(tiny_directory),
        "output": str(tmp_path / "run"),
        "agent": "invoicing",
        "dtype": "float64",
        "steps": 12,
        "data": {"contexts": 3, "records": 3, "questions": 2},
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    out = tmp_path / "out.json"
    arguments = ["train", "--config", str(tmp_path / "train.yaml")]
    assert main([*arguments, "--set", "steps=10", "--json", str(out)]) == 0
    results = json.loads(out.read_text())["results"]
    assert len(results["losses"]) == 10
    record = DecoderRecord.load(Path(results["decoder"]))
    assert (record.name, record.prefill) == ("invoicing", "shared")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == results["losses"]
    assert "10/10 loss" in capfd.readouterr().out


def test_a_failed_run_fails_the_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    missing = ["--set", f"model={tmp_path}/none", "--set", f"output={tmp_path}/run"]
    assert main(["train", *missing]) == 2
    assert "config.json is missing" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
