"""Pruned models: what is kept is what was there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prefillshare.cli import main
from prefillshare.errors import CheckpointError, DataError, UnsupportedModelError
from prefillshare.kv.identity import ModelId
from prefillshare.models.loading import load_model, load_tokenizer
from prefillshare.models.prune import RECORD_FILE, Pruned, evenly, prune
from prefillshare.models.tiny import save_tiny_model

TEXT = "order 417: item lamp, town Lyon, quantity 3, price 12. "


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five layers whose first feed-forward neurons are the weakest."""
    directory = save_tiny_model(
        tmp_path_factory.mktemp("whole"), layers=5, dtype=torch.float64
    )
    model = load_model(directory, torch.float64)
    for layer in model.model.layers:
        layer.mlp.down_proj.weight[:, :40] *= 1e-12
    model.save_pretrained(directory)
    return directory


def test_everything_kept_is_the_same_model(whole: Path, tmp_path: Path) -> None:
    prune(whole, tmp_path / "same", layers=5)
    ids = torch.tensor([[9, 8, 7, 50]])
    a, b = (load_model(d, torch.float64) for d in (whole, tmp_path / "same"))
    assert torch.allclose(
        a(input_ids=ids).logits, b(input_ids=ids).logits, rtol=0, atol=1e-6
    )


def test_neurons_that_do_nothing_are_the_ones_dropped(
    whole: Path, tmp_path: Path
) -> None:
    record = prune(whole, tmp_path / "narrow", ffn=128 - 40, text=TEXT)
    ids = torch.tensor([[9, 8, 7, 50]])
    a, b = (load_model(d, torch.float64) for d in (whole, tmp_path / "narrow"))
    logits = a(input_ids=ids).logits
    assert b.config.intermediate_size == record.ffn == 88
    # Its weights are kept in fp32, and what was dropped was 1e-12 of the rest.
    assert torch.allclose(b(input_ids=ids).logits, logits, rtol=0, atol=1e-6)
    # One more, and it shows.
    prune(whole, tmp_path / "narrower", ffn=80, text=TEXT)
    less = load_model(tmp_path / "narrower", torch.float64)
    assert not torch.allclose(less(input_ids=ids).logits, logits, rtol=0, atol=1e-4)


def test_layers_are_kept_whole_and_recorded(whole: Path, tmp_path: Path) -> None:
    record = prune(whole, tmp_path / "short", layers=3)
    assert record == Pruned.load(tmp_path / "short")
    assert record.layers == (0, 2, 4)
    assert record.model_id == ModelId.from_directory(whole).digest
    a, b = (load_model(d, torch.float64) for d in (whole, tmp_path / "short"))
    for new, old in enumerate(record.layers):
        theirs = b.model.layers[new].state_dict()
        for name, tensor in a.model.layers[old].state_dict().items():
            assert torch.equal(tensor.float(), theirs[name].float())
    text = "order 417: lamp"
    assert load_tokenizer(whole)(text) == load_tokenizer(tmp_path / "short")(text)


def test_windows_stay_with_their_layers(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "whole", architecture="gemma3", layers=4)
    prune(tmp_path / "whole", tmp_path / "short", layers=2)
    kinds = load_model(tmp_path / "short", torch.float32).config.layer_types
    assert kinds == ["sliding_attention", "full_attention"]


def test_evenly() -> None:
    assert evenly(15, 30)[:3] == (0, 2, 4) and evenly(15, 30)[-1] == 29
    assert len(set(evenly(15, 30))) == 15
    assert evenly(4, 4) == (0, 1, 2, 3)


@pytest.mark.parametrize("wanted", [{"layers": 6}, {"layers": 1}, {"ffn": 129}])
def test_more_than_there_is_is_refused(
    whole: Path, tmp_path: Path, wanted: dict[str, Any]
) -> None:
    with pytest.raises(UnsupportedModelError, match="cannot be kept; name"):
        prune(whole, tmp_path / "more", **wanted)
    assert not (tmp_path / "more").exists()


def test_neurons_are_chosen_where_the_model_reads(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give one that is like"):
        prune(whole, tmp_path / "narrow", ffn=60)
    prune(whole, tmp_path / "a", ffn=60, text=TEXT)
    prune(whole, tmp_path / "b", ffn=60, text=TEXT)
    prune(whole, tmp_path / "c", ffn=60, text="\n\n\n{}[]()")
    ids = [ModelId.from_directory(tmp_path / name) for name in "abc"]
    assert ids[0] == ids[1] != ids[2]


def test_other_kinds_of_layers_are_refused(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "hybrid", architecture="lfm2")
    with pytest.raises(UnsupportedModelError, match="cannot be pruned here"):
        prune(tmp_path / "hybrid", tmp_path / "short", layers=2)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / RECORD_FILE).write_text('{"layers": 3}')
    with pytest.raises(CheckpointError, match="prune it again"):
        Pruned.load(tmp_path)
    assert Pruned.load(tmp_path / "none") is None


def test_the_command(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["init", str(tmp_path / "half"), "--prune", str(whole)]
    (tmp_path / "text").write_text(TEXT)
    text = ["--text", str(tmp_path / "text")]
    assert main([*arguments, "--layers", "3", "--ffn", "100", *text]) == 0
    assert "3 layers" in capsys.readouterr().out
    assert Pruned.load(tmp_path / "half") is not None
    for wrong, said in (
        ([*arguments, "--layers", "2"], "something else already"),
        (["init", str(tmp_path / "b"), "--prune", str(whole)], "say what to keep"),
        (["init", str(tmp_path / "b"), "--layers", "2"], "go with --prune"),
    ):
        assert main(wrong) == 2
        assert said in capsys.readouterr().err
