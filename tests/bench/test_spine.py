"""The spine with a prefill module that was tuned to be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prefillshare.bench.spine.experiment import Spine
from prefillshare.bench.spine.settings import (
    CaseSettings,
    HeldOutSettings,
    SpineSettings,
)
from prefillshare.evals.comparison import summarise
from prefillshare.kv.identity import ModelId
from prefillshare.models.record import DecoderRecord
from prefillshare.models.tiny import save_tiny_model


def settings_of(output: Path, **changes: Any) -> SpineSettings:
    cases = {"contexts": 2, "records": 6, "questions": 2}
    fields = {
        "output": output,
        "agents": ["shipping", "invoicing"],
        "steps": 2,
        "train": CaseSettings(**cases),
        "test": HeldOutSettings(**cases),
        **changes,
    }
    return SpineSettings.model_validate(fields)


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model with the base's tokenizer."""
    return save_tiny_model(tmp_path_factory.mktemp("module"), seed=7)


def test_decoders_of_a_tuned_module_are_trained_scored_and_served(
    tiny_directory: Path, module: Path, tmp_path: Path
) -> None:
    spine = Spine(settings_of(tmp_path, module=module), tiny_directory)
    spine.train_all()
    for system, model in (("shared", tiny_directory), ("tuned", module)):
        record = DecoderRecord.load(spine.decoder("shipping", system))  # type: ignore[arg-type]
        assert record.model_id == ModelId.from_directory(model).digest
    accuracy = summarise(spine.accuracy())
    assert set(accuracy) == {"base", "full", "naive", "shared", "tuned", "no_context"}
    nll = {system: tasks["shipping"]["nll"] for system, tasks in accuracy.items()}
    assert nll["tuned"] != nll["shared"]
    serving = spine._serving("shared")
    assert serving.model == module
    assert serving.decoders[0].path == spine.decoder("shipping", "tuned")
    assert spine._serving("own").model == tiny_directory


def test_decoders_that_are_there_are_not_trained_again(
    tiny_directory: Path, tmp_path: Path
) -> None:
    made = Spine(settings_of(tmp_path / "made"), tiny_directory)
    made.train_all()
    trained = {"shared": tmp_path / "made/shared", "own": tmp_path / "made/own"}
    again = Spine(settings_of(tmp_path / "again", trained=trained), tiny_directory)
    again.train_all()
    assert not (tmp_path / "again").exists()
    assert summarise(again.accuracy()) == summarise(made.accuracy())
