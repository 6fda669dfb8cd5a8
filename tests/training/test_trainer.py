"""Runs end to end on the tiny model: what is trained, saved, resumed and refused."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from prefillshare.errors import CheckpointError, ConfigError, PrefillShareError
from prefillshare.kv.identity import ModelId
from prefillshare.models.decoder import Decoder
from prefillshare.models.loading import load_tokenizer
from prefillshare.models.record import DecoderRecord
from prefillshare.tasks.toolcalls import ToolCalls
from prefillshare.training.checkpoint import load_checkpoint
from prefillshare.training.decoders import DecoderExperiment, decoder_trainer
from prefillshare.training.metrics import StepLog
from prefillshare.training.settings import (
    BatchSettings,
    CaseFiles,
    LoraSettings,
    PrefixSettings,
    TrainSettings,
)
from prefillshare.training.trainer import Trainer
from tests.training.test_checkpoint import no_file_beyond

TASK = CaseFiles(agent="shipping", contexts=4, records=3, questions=2)
# The same contexts for all agents, each of which asks them one question.
CASES = TASK.model_copy(update={"records": 6, "questions": 1})
AGENTS = ("shipping", "invoicing", "letter")


def settings(directory: Path, output: Path, **changes: object) -> TrainSettings:
    base = TrainSettings(
        model=directory,
        output=output,
        task=TASK,
        dtype="float64",
        steps=6,
        checkpoint_every=3,
        lora=LoraSettings(rank=2, alpha=4),
    )
    return base.model_copy(update=changes)


def ignore(_: StepLog) -> None:
    """A progress callback for runs that nobody watches."""


def decoders_of(trainer: Trainer) -> DecoderExperiment:
    assert isinstance(trainer.experiment, DecoderExperiment)
    return trainer.experiment


def losses_of(run: TrainSettings) -> list[float]:
    losses: list[float] = []
    decoder_trainer(run).run(lambda entry: losses.append(entry.loss))
    return losses


def weights_of(run: TrainSettings, name: str | None = None) -> dict[str, torch.Tensor]:
    """The trained weights, after a run."""
    trainer = decoder_trainer(run)
    trainer.run(ignore)
    learners = {learner.name: learner for learner in trainer.experiment.learners}
    learner = learners[name] if name else next(iter(learners.values()))
    return {n: p.detach() for n, p in learner.trained.items()}


def assert_equal_to(
    mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], band: float
) -> None:
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=band)


@pytest.mark.parametrize(
    "changes",
    [
        {"prefill": "shared"},
        {"prefill": "own"},
        {"prefill": "icarus"},
        {"prefill": "recompute", "recompute": (1, 2)},
        {"path": "one_pass"},
        {"method": "full", "learning_rate": 1e-3},
        {"prefill": "own", "method": "full", "learning_rate": 1e-3},
    ],
    ids=str,
)
def test_training_lowers_the_loss_and_never_touches_the_base(
    tiny_directory: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    run = settings(tiny_directory, tmp_path, steps=20, resume=False, **changes)
    trainer = decoder_trainer(run)
    base = decoders_of(trainer).base
    before = {n: p.clone() for n, p in base.named_parameters()}
    losses: list[float] = []
    saved = trainer.run(lambda entry: losses.append(entry.loss))
    assert sum(losses[-4:]) < sum(losses[:4])
    for name, parameter in base.named_parameters():
        assert torch.equal(parameter, before[name]), name
    loaded = Decoder.load(saved, base, ModelId.from_directory(tiny_directory))
    trained = dict(decoders_of(trainer).decoders[0].model.named_parameters())
    for name, parameter in loaded.model.named_parameters():
        assert torch.equal(parameter, trained[name]), name


def prefilled_of(trainer: Trainer) -> list[int]:
    """The tokens of every forward pass of the base, as they are read."""
    tokens: list[int] = []

    def count(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        tokens.append(inputs["input_ids"].numel())

    decoders_of(trainer).base.register_forward_pre_hook(count, with_kwargs=True)
    return tokens


def test_several_decoders_of_one_run_equal_each_alone_on_one_prefill(
    tiny_directory: Path, tmp_path: Path
) -> None:
    """With the contexts computed in every step, not kept: one pass a step for all."""
    fields: dict[str, Any] = {"method": "full", "optimizer": "sgd", "steps": 4}
    fields |= {"learning_rate": 0.05, "prefixes": PrefixSettings(memory_bytes=0)}
    tasks = {name: CASES.model_copy(update={"agent": name}) for name in AGENTS}
    runs = {
        name: settings(tiny_directory, tmp_path / name, task=task, **fields)
        for name, task in tasks.items()
    }
    several = {"task": None, "tasks": list(tasks.values())}
    runs["all"] = settings(tiny_directory, tmp_path / "all", **several, **fields)
    trainers = {name: decoder_trainer(run) for name, run in runs.items()}
    read = {name: prefilled_of(trainer) for name, trainer in trainers.items()}
    saved = {name: trainer.run(ignore) for name, trainer in trainers.items()}
    assert [len(tokens) for tokens in read.values()] == [4] * 4
    # The context, most of each prompt, is read once for all three.
    apart = [sum(parts) for parts in zip(*(read[n] for n in AGENTS), strict=True)]
    assert all(2 * one < all_ for one, all_ in zip(read["all"], apart, strict=True))
    together = {x.name: x.trained for x in trainers["all"].experiment.learners}
    for name in AGENTS:
        (alone,) = trainers[name].experiment.learners
        assert_equal_to(dict(together[name]), dict(alone.trained), 1e-8)
        assert DecoderRecord.load(saved["all"] / name / "decoder").name == name


def test_epochs_count_the_steps(tiny_directory: Path, tmp_path: Path) -> None:
    # One and a half times four units, two a step.
    run = settings(tiny_directory, tmp_path, epochs=1.5, batch=BatchSettings(units=2))
    assert len(losses_of(run)) == 3
    card = (tmp_path / "decoder" / "README.md").read_text()
    assert "| steps | 3 |" in card


def test_tokens_at_the_boundary_are_learned_and_no_others(
    tiny_directory: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(tiny_directory)
    vocabulary = tokenizer.get_vocab()
    marks = sorted(vocabulary)[:2]
    lora = LoraSettings(rank=2, alpha=4, trainable_tokens=marks)
    task = ToolCalls(file=_requests(tmp_path), held_out=1, suffix="".join(marks))
    changes = {"lora": lora, "task": task, "boundary": "suffix", "steps": 3}
    trainer = decoder_trainer(settings(tiny_directory, tmp_path / "run", **changes))
    saved = trainer.run(ignore)
    base = decoders_of(trainer).base
    loaded = Decoder.load(saved, base, ModelId.from_directory(tiny_directory))
    learned = {vocabulary[mark] for mark in marks}
    embed = loaded.model.get_input_embeddings()
    for i in range(len(tokenizer)):
        ids = torch.tensor([[i]])
        same = torch.equal(embed(ids), base.get_input_embeddings()(ids))
        assert same == (i not in learned)


def test_trainable_tokens_must_be_known(tiny_directory: Path, tmp_path: Path) -> None:
    lora = LoraSettings(trainable_tokens=["<nowhere>"])
    with pytest.raises(ConfigError, match="names '<nowhere>', which the decoder's"):
        decoder_trainer(settings(tiny_directory, tmp_path, lora=lora))


def _requests(folder: Path) -> Path:
    file = folder / "requests.jsonl"
    rows = [
        {"utterance": f"play song {i}", "name": "play", "arguments": {"song": str(i)}}
        for i in range(4)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_a_checkpoint_of_other_settings_is_refused(
    tiny_directory: Path, tmp_path: Path
) -> None:
    decoder_trainer(settings(tiny_directory, tmp_path)).run(ignore)
    other = settings(tiny_directory, tmp_path, learning_rate=1.0)
    with pytest.raises(
        PrefillShareError, match="learning_rate .0.002 there, 1.0 here."
    ):
        decoder_trainer(other).run(ignore)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(
    tiny_directory: Path, tmp_path: Path
) -> None:
    trainer = decoder_trainer(settings(tiny_directory, tmp_path))

    def spoil(entry: StepLog) -> None:
        if entry.step == 4:
            parameter = next(iter(trainer.experiment.learners[0].trained.values()))
            parameter.data.fill_(float("nan"))

    with pytest.raises(PrefillShareError, match="loss is .nan. at step 5; the last"):
        trainer.run(spoil)
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert loaded is not None
    assert loaded[1]["step"] == 3


def test_a_full_disk_ends_the_run_and_it_resumes_once_there_is_space(
    tiny_directory: Path, tmp_path: Path
) -> None:
    run = settings(tiny_directory, tmp_path)
    with ExitStack() as full:

        def fill(entry: StepLog) -> None:
            if entry.step == 4:
                full.enter_context(no_file_beyond(4_000))

        with pytest.raises(CheckpointError, match="could not be written.*free space"):
            decoder_trainer(run).run(fill)
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert loaded is not None
    assert loaded[1]["step"] == 3
    assert len(losses_of(run)) == 3


def test_an_output_that_cannot_be_written_is_named(
    tiny_directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    run = settings(tiny_directory, tmp_path / "file" / "run")
    with pytest.raises(CheckpointError, match="file/run cannot be written"):
        decoder_trainer(run).run(ignore)


def test_a_finished_decoder_of_another_kind_is_not_overwritten(
    tiny_directory: Path, tmp_path: Path
) -> None:
    decoder_trainer(settings(tiny_directory, tmp_path, steps=1)).run(ignore)
    baseline = settings(tiny_directory, tmp_path, steps=1, prefill="own")
    with pytest.raises(PrefillShareError, match="whose prefill differ"):
        decoder_trainer(baseline).run(ignore)
    assert DecoderRecord.load(tmp_path / "decoder").prefill == "shared"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": None}, "set either `task` or a list of `tasks`"),
        ({"tasks": [TASK.model_dump()]}, "set either `task` or a list"),
        ({"prefill": "recompute"}, "`recompute: \\[first, last\\]` go together"),
        ({"path": "one_pass", "method": "full"}, "needs `method: lora`"),
        ({"prefill": "recompute", "recompute": [3, 2]}, "names no layers"),
        ({"bridge_learning_rate": 1e-4}, "go with `bridge`"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    fields = settings(tmp_path, tmp_path).model_dump()
    with pytest.raises(ValueError, match=message):
        TrainSettings.model_validate({**fields, **changes})


def test_two_tasks_of_one_name_are_refused(
    tiny_directory: Path, tmp_path: Path
) -> None:
    run = settings(tiny_directory, tmp_path, task=None, tasks=[TASK, TASK])
    with pytest.raises(PrefillShareError, match="give each its own name"):
        decoder_trainer(run)
