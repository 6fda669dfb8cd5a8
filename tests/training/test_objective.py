"""The objective against turn-by-turn inference, and what training leaves alone."""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from prefillshare.errors import CheckpointError, PrefillShareError
from prefillshare.kv.identity import ModelId
from prefillshare.models.decoder import DecoderRecord
from prefillshare.models.prefill import PrefillModule
from prefillshare.models.prompt import Boundary
from prefillshare.models.tiny import tiny_tokenizer
from prefillshare.tasks.casefile import SHIPPING, generate
from prefillshare.training.checkpoint import load_checkpoint, save_checkpoint
from prefillshare.training.data import CaseFileData, ContextGroup, Example
from prefillshare.training.objective import score_group
from prefillshare.training.settings import DataSettings, LoraSettings, TrainSettings
from prefillshare.training.trainer import StepLog, Trainer
from tests.conftest import make_decoder

DATA = CaseFileData("train", contexts=1, records=4, questions=3)


def group_of(boundary: Boundary) -> ContextGroup:
    return DATA.groups(tiny_tokenizer(), SHIPPING, boundary)[0]


@pytest.mark.parametrize("boundary", ["last_token", "suffix"])
def test_batched_and_padded_equals_turn_by_turn(
    tiny_model: PreTrainedModel, tiny_id: ModelId, boundary: Boundary
) -> None:
    """Three questions of different lengths against one forward pass per token."""
    decoder = make_decoder(tiny_model, tiny_id)
    group = group_of(boundary)
    assert len({len(e.response) for e in group.examples}) > 1
    with torch.no_grad():
        batched = score_group(tiny_model, decoder.model, group).nll()
    module = PrefillModule(tiny_model)
    for nll, example in zip(batched, group.examples, strict=True):
        state = module.prefill(
            example.prompt.token_ids[: example.prompt.boundary]
        ).to_transformers()
        ids, losses = list(example.prompt.remainder), []
        for token in example.response:
            logits = decoder._step(ids, state)
            losses.append(-torch.log_softmax(logits, -1)[token])
            ids = [token]
        expected = torch.stack(losses).mean()
        torch.testing.assert_close(nll, expected, rtol=0, atol=1e-9)


def test_own_prefill_equals_one_plain_forward(
    tiny_model: PreTrainedModel, tiny_id: ModelId
) -> None:
    """Ordinary fine-tuning over a shared context, gradients included."""
    decoder = make_decoder(tiny_model, tiny_id)
    trained = [p for p in decoder.model.parameters() if p.requires_grad]
    group = group_of("last_token")
    scores = score_group(decoder.model, decoder.model, group, train_prefill=True)
    torch.autograd.backward(scores.loss())
    ours = [p.grad.clone() for p in trained if p.grad is not None]
    for parameter in trained:
        parameter.grad = None
    losses = []
    for e in group.examples:
        ids = torch.tensor([e.prompt.token_ids + e.response])
        logits = decoder.model(ids, use_cache=False).logits[0]
        start = len(e.prompt.token_ids)
        losses.append(
            torch.nn.functional.cross_entropy(
                logits[start - 1 : -1], torch.tensor(e.response), reduction="none"
            )
        )
    torch.autograd.backward(torch.cat(losses).mean())
    assert len(ours) == len(trained)
    for mine, parameter in zip(ours, trained, strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=0, atol=1e-9)


def test_greedy_correct_means_that_generation_yields_the_response(
    tiny_model: PreTrainedModel, tiny_id: ModelId
) -> None:
    decoder = make_decoder(tiny_model, tiny_id)
    prompt = group_of("last_token").examples[0].prompt
    cache = PrefillModule(tiny_model).prefill(prompt.token_ids[:-1])
    tokens = tuple(
        decoder.generate(cache, prompt.remainder, max_tokens=6, stop_ids=frozenset())
    )
    right = Example(prompt, tokens)
    wrong = Example(prompt, (*tokens[:-1], tokens[-1] + 1))
    with torch.no_grad():
        scores = score_group(tiny_model, decoder.model, ContextGroup.of([right, wrong]))
    assert scores.greedy_correct().tolist() == [True, False]


def settings(directory: Path, output: Path, **changes: object) -> TrainSettings:
    base = TrainSettings(
        model=directory,
        output=output,
        dtype="float64",
        steps=6,
        checkpoint_every=3,
        lora=LoraSettings(rank=2, alpha=4),
        data=DataSettings(contexts=4, records=3, questions=2),
    )
    return base.model_copy(update=changes)


def ignore(_: StepLog) -> None:
    """A progress callback for runs that nobody watches."""


@pytest.mark.parametrize("prefill", ["shared", "own"])
def test_training_lowers_the_loss_and_never_touches_the_base(
    tiny_directory: Path, tmp_path: Path, prefill: str
) -> None:
    trainer = Trainer(
        settings(tiny_directory, tmp_path, prefill=prefill, steps=20, resume=False)
    )
    before = {n: p.clone() for n, p in trainer.base.named_parameters()}
    losses: list[float] = []
    trainer.run(lambda entry: losses.append(entry.loss))
    assert sum(losses[-4:]) < sum(losses[:4])
    for name, parameter in trainer.base.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert ModelId.from_directory(tiny_directory).digest == (
        trainer.decoder.record.model_id
    )


def test_a_resumed_run_ends_bit_equal(tiny_directory: Path, tmp_path: Path) -> None:
    whole = Trainer(settings(tiny_directory, tmp_path / "whole"))
    whole.run(ignore)

    class Killed(Exception):
        pass

    def die(entry: StepLog) -> None:
        if entry.step == 5:
            raise Killed

    with pytest.raises(Killed):
        Trainer(settings(tiny_directory, tmp_path / "cut")).run(die)
    resumed = Trainer(settings(tiny_directory, tmp_path / "cut"))
    steps: list[int] = []
    resumed.run(lambda entry: steps.append(entry.step))
    assert steps == [4, 5, 6]
    for mine, theirs in zip(whole.trained, resumed.trained, strict=True):
        assert torch.equal(mine, theirs)
    log = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert len(log) == 6


def test_a_checkpoint_of_other_settings_is_refused(
    tiny_directory: Path, tmp_path: Path
) -> None:
    Trainer(settings(tiny_directory, tmp_path)).run(ignore)
    with pytest.raises(
        PrefillShareError, match="learning_rate .0.002 there, 1.0 here."
    ):
        Trainer(settings(tiny_directory, tmp_path, learning_rate=1.0)).run(ignore)


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """The kernel lets no file grow past `size` bytes: as good as a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("big", ["weights", "optimizer"])
def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path, big: str) -> None:
    sizes = {"weights": 4, "optimizer": 4, big: 1_000_000}
    weights = {"w": torch.ones(sizes["weights"])}
    state = {"step": 2, "optimizer": torch.ones(sizes["optimizer"])}
    save_checkpoint(tmp_path / "c", {"w": torch.ones(3)}, {"step": 1})
    with (
        no_file_beyond(100_000),
        pytest.raises(CheckpointError, match="could not be written.*free space"),
    ):
        save_checkpoint(tmp_path / "c", weights, state)
    loaded = load_checkpoint(tmp_path / "c")
    assert loaded is not None
    assert loaded[1]["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_distance_is_counted_to_the_boundary() -> None:
    group = group_of("last_token")
    case = generate("train", 0, records=4, questions=3)
    for example, question in zip(group.examples, case.questions, strict=True):
        boundary = example.prompt.boundary
        fact = example.prompt.token_ids[boundary - example.distance : boundary]
        text = str(tiny_tokenizer().decode(list(fact)))
        assert text.startswith(question.record.line())
    floor = dataclasses.replace(DATA, with_context=False)
    bare = floor.groups(tiny_tokenizer(), SHIPPING, "last_token")[0]
    assert bare.examples[0].response == group.examples[0].response
    assert len(bare.examples[0].prompt.token_ids) < len(
        group.examples[0].prompt.token_ids
    )


def test_contexts_grow_from_records_to_records_max() -> None:
    data = CaseFileData("train", contexts=4, records=2, questions=1, records_max=11)
    groups = data.groups(tiny_tokenizer(), SHIPPING, "last_token")
    lines = [
        tiny_tokenizer().decode(list(g.examples[0].prompt.token_ids)).count(": item ")
        for g in groups
    ]

    assert lines == [2, 5, 8, 11]


def test_an_output_that_cannot_be_written_is_named(
    tiny_directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file/run cannot be written"):
        Trainer(settings(tiny_directory, tmp_path / "file" / "run")).run(ignore)


def test_a_finished_decoder_of_another_kind_is_not_overwritten(
    tiny_directory: Path, tmp_path: Path
) -> None:
    Trainer(settings(tiny_directory, tmp_path, steps=1)).run(ignore)
    baseline = settings(tiny_directory, tmp_path, steps=1, prefill="own")
    with pytest.raises(PrefillShareError, match="whose prefill differ"):
        Trainer(baseline).run(ignore)
    assert DecoderRecord.load(tmp_path / "decoder").prefill == "shared"
