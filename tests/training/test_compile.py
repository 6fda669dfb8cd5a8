"""Compiled training: the same weights as uncompiled."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from prefillshare.errors import ConfigError
from prefillshare.models.tiny import save_tiny_model
from prefillshare.training.decoders import decoder_trainer
from prefillshare.training.settings import (
    BatchSettings,
    CaseFiles,
    LoraSettings,
    TrainSettings,
)

# Of weights that SGD moves by more than 1e-3 in fp64: what is fused rounds otherwise.
BAND = 1e-8


def weights_of(settings: TrainSettings) -> dict[str, torch.Tensor]:
    trainer = decoder_trainer(settings)
    trainer.run(lambda _: None)
    (learner,) = trainer.experiment.learners
    return {name: value.detach() for name, value in learner.trained.items()}


def run_settings(model: Path, output: Path, **changes: Any) -> TrainSettings:
    task = CaseFiles(agent="shipping", contexts=6, records=3, questions=2)
    fields: dict[str, Any] = {
        "steps": 20,
        "optimizer": "sgd",
        "learning_rate": 0.05,
        "dtype": "float64",
        "batch": BatchSettings(units=2),
        "lora": LoraSettings(rank=2, alpha=4),
    }
    return TrainSettings(model=model, output=output, task=task, **fields | changes)


def require_compiler() -> None:
    """Inductor writes C++ for Python and compiles it."""
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None or not headers.is_file():
        message = "inductor needs a C++ compiler and Python's headers; see README"
        if "CI" in os.environ:
            pytest.fail(message)
        pytest.skip(message)


# Of torch's own modules, which inductor imports.
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("backend", "way"),
    [
        ("inductor", {}),
        ("aot_eager", {}),
        ("aot_eager", {"prefill": "own"}),
        ("aot_eager", {"method": "full"}),
        ("aot_eager", {"gradient_checkpointing": True}),
    ],
)
def test_a_compiled_run_ends_where_the_uncompiled_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, way: dict[str, Any]
) -> None:
    """Twenty steps of SGD in fp64 on rows of different lengths."""
    if backend == "inductor":
        require_compiler()
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    counts = torch._dynamo.utils.counters["stats"]
    model = save_tiny_model(tmp_path / "model", layers=1, dtype=torch.float64)
    start = weights_of(run_settings(model, tmp_path / "start", steps=1, **way))
    expected = weights_of(run_settings(model, tmp_path / "plain", **way))
    assert counts["unique_graphs"] == 0
    how = {"compile": True, "compile_backend": backend}
    found = weights_of(run_settings(model, tmp_path / "compiled", **how, **way))
    # What is checkpointed is traced again, as its backward pass.
    graphs = 2 if "gradient_checkpointing" in way else 1
    assert counts["unique_graphs"] == graphs, "the same for rows of all lengths"
    assert found.keys() == expected.keys()
    assert max((expected[n] - start[n]).abs().max().item() for n in expected) > 1e-3
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=BAND)


def test_what_cannot_be_compiled_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="cannot trace the hooks of `path: one"):
        run_settings(tmp_path, tmp_path, compile=True, path="one_pass")


def test_an_unknown_backend_is_refused(tiny_directory: Path, tmp_path: Path) -> None:
    settings = run_settings(
        tiny_directory, tmp_path, compile=True, compile_backend="indutcor"
    )
    with pytest.raises(ConfigError, match="no backend 'indutcor'; set `compile_back"):
        decoder_trainer(settings)
