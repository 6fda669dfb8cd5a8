"""Models of lm-evaluation-harness, float64, on a tiny model whose tokenizer merges."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from prefillshare.evals.lm_eval import PrefillShareLM
from prefillshare.models.loading import load_model
from prefillshare.models.tiny import save_tiny_model
from tests.evals.harness import saved, trained_decoder
from tests.evals.merging import merging_tokenizer


@pytest.fixture(scope="session")
def base_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float64 model whose tokenizer merges."""
    directory = save_tiny_model(
        tmp_path_factory.mktemp("base"), dtype=torch.float64, seed=3
    )
    merging_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def base(base_directory: Path) -> PreTrainedModel:
    return load_model(base_directory, torch.float64)


@pytest.fixture(scope="session")
def identity(
    base: PreTrainedModel,
    base_directory: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> PrefillShareLM:
    """With a decoder that is the base still, and a short context window."""
    decoder = saved(
        base, base_directory, tmp_path_factory.mktemp("d") / "d", fresh=True
    )
    return PrefillShareLM(
        str(base_directory), decoder, "float64", max_length=64, batch_size=2
    )


@pytest.fixture(scope="session")
def trained(
    base_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> PrefillShareLM:
    """With a decoder that learned `ROWS` by heart; the base stops at its suffix."""
    folder = tmp_path_factory.mktemp("trained")
    decoder = trained_decoder(base_directory, folder)
    return PrefillShareLM(str(base_directory), decoder, "float64", batch_size=2)
