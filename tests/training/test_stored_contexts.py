"""Contexts are computed once a run, however many units lie in a pass."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedModel

from prefillshare.training.data import Group
from prefillshare.training.decoders import DecoderExperiment, decoder_trainer
from prefillshare.training.packing import pack
from prefillshare.training.prefixes import PrefixStore
from prefillshare.training.schemes.cached import MIN_STORED_TOKENS, Cached
from prefillshare.training.settings import (
    BatchSettings,
    CaseFiles,
    LoraSettings,
    PrefixSettings,
    TrainSettings,
)
from tests.training.examples import group

CONTEXTS = 4


def run(model: Path, output: Path, memory: int) -> tuple[list[float], PrefixStore]:
    """The losses of two epochs with two units a pass, and the store."""
    settings = TrainSettings(
        model=model,
        output=output,
        task=CaseFiles(agent="shipping", contexts=CONTEXTS, records=6, questions=2),
        dtype="float64",
        steps=CONTEXTS,
        lora=LoraSettings(rank=2, alpha=4),
        batch=BatchSettings(units=2),
        prefixes=PrefixSettings(memory_bytes=memory),
    )
    losses: list[float] = []
    trainer = decoder_trainer(settings)
    trainer.run(lambda entry: losses.append(entry.loss))
    assert isinstance(trainer.experiment, DecoderExperiment)
    return losses, trainer.experiment.store


def test_the_second_epoch_computes_no_context(
    tiny_directory: Path, tmp_path: Path
) -> None:
    kept, store = run(tiny_directory, tmp_path / "kept", 1 << 30)
    assert (store.misses, store.hits) == (CONTEXTS, CONTEXTS)
    computed, none = run(tiny_directory, tmp_path / "computed", 0)
    assert none.hits == 0
    assert kept == pytest.approx(computed, rel=0, abs=1e-10)


def both() -> Group:
    """Two units whose prompts have no more than the template in common."""
    return group("shared_context") + group("independent")


def test_paths_end_where_prompts_part() -> None:
    packed = pack(both())
    (path,) = packed.shared_paths(MIN_STORED_TOKENS)
    ids = tuple(i for each in path for i in packed.prefill.pieces[each].ids)
    prompts = [example.prefill_ids for example in group("shared_context")]
    assert all(prompt[: len(ids)] == ids for prompt in prompts)
    assert len({prompt[len(ids)] for prompt in prompts}) > 1
    assert packed.shared_paths(len(ids) + 1) == []


def test_what_is_stored_depends_on_no_other_prompt_of_its_pass(
    tiny_model: PreTrainedModel,
) -> None:
    store = PrefixStore(1 << 30)
    scheme = Cached(tiny_model, store)
    scheme.prefill(pack(group("shared_context")))
    scheme.prefill(pack(both()))
    assert (store.misses, store.hits) == (1, 1)
