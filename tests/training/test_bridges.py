"""`prefillshare bridge fit` and `inspect` between saved tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from prefillshare.cli import main
from prefillshare.kv.identity import ModelId
from prefillshare.models.bridge.storage import load_bridge
from prefillshare.models.tiny import save_tiny_model
from tests.training.test_bridged import word_tokenizer

TASK = {"kind": "casefile", "agent": "shipping", "contexts": 6, "records": 8}


def run(what: str, config: Path, *overrides: str) -> dict[str, Any]:
    """The results of one command."""
    out = config.with_suffix(".json")
    arguments = ["bridge", what, "--config", str(config), "--json", str(out)]
    for override in overrides:
        arguments += ["--set", override]
    assert main(arguments) == 0
    results: dict[str, Any] = json.loads(out.read_text())["results"]
    return results


def write_config(folder: Path, source: Path, target: Path) -> Path:
    config = folder / "bridge.yaml"
    fields: dict[str, Any] = {"model": str(source), "tasks": [TASK]}
    fields |= {"decoder_model": str(target), "output": str(folder / "bridge")}
    fields |= {"dtype": "float64", "layers": 1}
    config.write_text(yaml.safe_dump(fields))
    return config


def test_a_bridge_to_the_same_model_is_hardly_noticed(
    tiny_directory: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path, tiny_directory, tiny_directory)
    fitted = run("fit", config, "ridge=1.0e-6")
    assert fitted["sources"] == [[0], [1]]
    assert min(fitted["explained"]["keys"] + fitted["explained"]["values"]) > 0.99
    model_id = ModelId.from_directory(tiny_directory)
    bridge = load_bridge(tmp_path / "bridge", (model_id, model_id))
    assert fitted["bridge_parameters"] == bridge.parameter_count
    assert run("inspect", config)["cosine"]["all"] > 0.99


def test_another_tokenizer_and_shape(tiny_directory: Path, tmp_path: Path) -> None:
    target = save_tiny_model(
        tmp_path / "target",
        architecture="mistral",
        layers=3,
        hidden=96,
        dtype=torch.float64,
    )
    word_tokenizer().save_pretrained(target)
    config = write_config(tmp_path, tiny_directory, target)
    fitted = run("fit", config, "rank=8", "kind=gated", "width=4")
    assert len(fitted["sources"]) == 3
    cosine = run("inspect", config)["cosine"]
    assert [len(heads) for heads in cosine["heads"]] == [4, 4, 4]
    assert 0 < cosine["all"] < 1


def test_a_bridge_between_other_models_is_refused(
    tiny_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, tiny_directory, tiny_directory)
    run("fit", config)
    other = save_tiny_model(tmp_path / "other", seed=3, dtype=torch.float64)
    arguments = ["bridge", "inspect", "--config", str(config)]
    assert main([*arguments, "--set", f"model={other}"]) == 1
    assert "the source of the bridge" in capsys.readouterr().err


def test_too_little_text_is_said(
    tiny_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, tiny_directory, tiny_directory)
    arguments = ["bridge", "fit", "--config", str(config), "--set", "layers=2"]
    few = json.dumps({**TASK, "contexts": 1, "records": 1, "questions": 1})
    assert main([*arguments, "--set", f"tasks=[{few}]", "--set", "layers=900"]) == 1
    assert "give more text, or fewer layers" in capsys.readouterr().err
