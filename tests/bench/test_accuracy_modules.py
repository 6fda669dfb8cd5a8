"""Modules of an experiment that are like those of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prefillshare.bench.accuracy.settings import AccuracySettings
from prefillshare.errors import ConfigError
from tests.bench.test_accuracy import settings_of

FILE = """
model: elsewhere
output: elsewhere
steps: 7
learning_rate: 1.0e-4
tasks: [{kind: casefile, agent: refund, contexts: 2, records: 6}]
"""


def with_module(folder: Path, **module: Any) -> AccuracySettings:
    return settings_of(Path("base"), folder / "runs", modules={"tuned": module})


def test_what_is_set_beside_a_file_counts_before_it(tmp_path: Path) -> None:
    path = tmp_path / "prefill.yaml"
    path.write_text(FILE)
    settings = with_module(tmp_path, like=str(path), steps=3)
    tuning = settings.module_training("tuned", 1, Path("base"))
    assert (tuning.steps, tuning.learning_rate) == (3, 1e-4)
    assert [task.kind for task in tuning.tasks] == ["casefile"]
    # Neither base nor place are the file's.
    assert tuning.model == Path("base")
    assert tuning.output == tmp_path / "runs" / "modules" / "tuned" / "seed1"
    # What was meant stays known when the file changes.
    assert "like" not in settings.modules["tuned"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nonesuch.yaml"
    with pytest.raises(ConfigError, match="there is no such file"):
        with_module(tmp_path, like=str(path))
