"""What a prefill module's run leaves: the module, and decoders trained with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from prefillshare.errors import (
    CheckpointError,
    PrefillShareError,
    UnsupportedModelError,
)
from prefillshare.kv.identity import ModelId
from prefillshare.models.decoder import Decoder
from prefillshare.models.loading import load_model
from prefillshare.models.tiny import save_tiny_model
from prefillshare.training.hub import repositories
from prefillshare.training.packing import pack
from prefillshare.training.padded import OneByOne
from prefillshare.training.readable import PrefillExperiment, prefill_trainer
from prefillshare.training.schemes.base import score
from prefillshare.training.settings import CaseFiles, PrefillSettings
from prefillshare.training.trainer import Trainer
from tests.architectures import HYBRID
from tests.training.test_trainer import ignore

REFUND, LOCATE = (
    CaseFiles(agent=agent, contexts=2, records=2, questions=1)
    for agent in ("refund", "locate")
)


def joint(model: Path, output: Path, **changes: object) -> PrefillSettings:
    run = PrefillSettings(
        model=model,
        output=output,
        dtype="float64",
        steps=3,
        checkpoint_every=2,
        mode="joint",
        learning_rate=0.05,
        warmup_steps=0,
        tasks=[REFUND, LOCATE],
    )
    return run.model_copy(update=changes)


def losses_of(trainer: Trainer) -> list[float]:
    """Those of all examples, one a decoder."""
    experiment = trainer.experiment
    for learner in experiment.learners:
        learner.model.eval()
    examples = [[e for group in part for e in group] for part in experiment.groups]
    with torch.no_grad():
        return [loss.value.item() for loss in experiment.losses(examples)]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_decoders_trained_with_a_module_are_saved_for_it(
    tiny_directory: Path, tmp_path: Path, method: str
) -> None:
    rate = {"lora": 0.05, "full": 1e-3}[method]
    run = joint(tiny_directory, tmp_path, method=method, learning_rate=rate)
    trainer = prefill_trainer(run)
    untrained = losses_of(trainer)
    module = trainer.run(ignore)
    expected = losses_of(trainer)
    assert expected != pytest.approx(untrained, abs=1e-3)
    model, module_id = load_model(module, torch.float64), ModelId.from_directory(module)
    readers = [
        Decoder.load(tmp_path / name / "decoder", model, module_id)
        for name in ("refund", "locate")
    ]
    assert [each.record.prefill for each in readers] == ["shared", "shared"]
    assert [each.record.name for each in readers] == ["refund", "locate"]
    loaded = prefill_trainer(run)
    models = [model, *(each.model for each in readers)]
    loaded.experiment.adopt(models)
    for learner, whole in zip(loaded.experiment.learners, models, strict=True):
        learner.model = whole
    assert losses_of(loaded) == pytest.approx(expected, rel=0, abs=1e-8)
    card = (tmp_path / "refund" / "decoder" / "README.md").read_text()
    assert module_id.digest in card
    assert "library_name: transformers" in card
    with pytest.raises(CheckpointError, match="holds a tuned prefill module already"):
        prefill_trainer(run).run(ignore)
    module.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="refund/decoder holds a decoder already"):
        prefill_trainer(run).run(ignore)


def results_of(output: Path) -> list[str]:
    found = (str(each.relative_to(output)) for each in output.rglob("*"))
    return sorted(each for each in found if "module" in each or "decoder" in each)


@pytest.mark.parametrize(
    "failure", [SafetensorError("I/O error: no space"), OSError(28, "no space")]
)
@pytest.mark.parametrize("fails", [1, 3])
def test_a_full_disk_leaves_nothing_half_written_and_the_run_goes_on_after_it(
    tiny_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    fails: int,
) -> None:
    """While the module is written, or the second decoder."""
    run = joint(tiny_directory, tmp_path)
    save, calls = PreTrainedModel.save_pretrained, []

    def full(model: Any, directory: str) -> None:
        save(model, directory)
        calls.append(directory)
        if len(calls) == fails:
            raise failure

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(CheckpointError, match="module could not be written.*no space"):
        prefill_trainer(run).run(ignore)
    assert len(calls) == fails
    assert results_of(tmp_path) == []
    monkeypatch.undo()
    steps: list[int] = []
    prefill_trainer(run).run(lambda entry: steps.append(entry.step))
    assert steps == [3]
    assert "module/config.json" in results_of(tmp_path)


def test_decoders_need_names_of_their_own(tiny_directory: Path, tmp_path: Path) -> None:
    run = joint(tiny_directory, tmp_path, tasks=[REFUND, REFUND])
    with pytest.raises(PrefillShareError, match="give each its own name"):
        prefill_trainer(run)


def test_the_module_and_its_decoders_go_to_repositories_of_their_own(
    tiny_directory: Path, tmp_path: Path
) -> None:
    run = joint(tiny_directory, tmp_path)
    directories = PrefillExperiment(run, torch.device("cpu")).directories()
    assert repositories("lab/reader", directories) == {
        "lab/reader": tmp_path / "module",
        "lab/reader-refund": tmp_path / "refund" / "decoder",
        "lab/reader-locate": tmp_path / "locate" / "decoder",
    }


def test_a_recurrent_module_reads_its_examples_one_by_one(tmp_path: Path) -> None:
    directory = save_tiny_model(tmp_path / "base", architecture=HYBRID[0])
    run = joint(directory, tmp_path / "out", mode="mixture", dtype="float32")
    experiment = PrefillExperiment(run, torch.device("cpu"))
    model = experiment.module.model.eval()
    examples = [example for group in experiment.groups[0] for example in group]
    with torch.no_grad():
        (loss,) = experiment.losses([examples])
        alone = [score(OneByOne(None), model, pack([e])).loss_sum() for e in examples]
    assert loss.value.item() == pytest.approx(sum(x.item() for x in alone), rel=1e-5)


@pytest.mark.parametrize(
    "asked", [{"mode": "joint"}, {"mode": "mixture", "gradient_checkpointing": True}]
)
def test_a_recurrent_module_refuses_what_its_state_does_not_bear(
    tmp_path: Path, asked: dict[str, Any]
) -> None:
    directory = save_tiny_model(tmp_path / "base", architecture=HYBRID[0])
    run = joint(directory, tmp_path / "out", **asked)
    with pytest.raises(UnsupportedModelError, match="has recurrent layers"):
        PrefillExperiment(run, torch.device("cpu"))
