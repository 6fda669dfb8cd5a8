"""`prefillshare bridge fit` and `inspect` between saved tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from prefillshare.cli import main
from prefillshare.kv.identity import ModelId
from prefillshare.models.bridge.storage import bridge_digest, load_bridge
from prefillshare.models.tiny import save_tiny_model
from tests.training.bridge_commands import TASK, run, write_config
from tests.words import word_tokenizer


def test_a_bridge_to_the_same_model_is_hardly_noticed(
    tiny_directory: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path, tiny_directory, tiny_directory)
    # It would not be saved if it recovered less.
    fitted = run("fit", config, "ridge=1.0e-6", "recovered=0.9")
    assert fitted["trial"]["recovered"] > 0.9
    assert fitted["sources"] == [[0], [1]]
    assert min(fitted["explained"]["keys"] + fitted["explained"]["values"]) > 0.99
    model_id = ModelId.from_directory(tiny_directory)
    bridge = load_bridge(tmp_path / "bridge", (model_id, model_id))
    assert fitted["bridge_parameters"] == bridge.parameter_count
    inspected = run("inspect", config)
    cosine = inspected["cosine"]
    assert cosine["all"] > 0.99
    # A bridge to itself continues as its own prefill does; nothing read shows.
    for row in inspected["continuation"]:
        assert row["bridged"] == pytest.approx(row["own_prefill"], abs=1e-4)
    first = inspected["continuation"][0]
    assert abs(first["no_context"] - first["own_prefill"]) > 1e-3
    assert [row["from"] for row in inspected["continuation"]][:3] == [1, 17, 65]
    assert fitted["trial"]["cosine"]["all"] == pytest.approx(cosine["all"], abs=0.01)


def test_a_hopeless_pair_is_refused_with_reasons(
    tiny_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = save_tiny_model(tmp_path / "target", seed=8, dtype=torch.float64)
    config = write_config(tmp_path, tiny_directory, target)
    # Two features of keys and values tell nothing of another random model's.
    arguments = ["bridge", "fit", "--config", str(config), "--set", "rank=1"]
    assert main([*arguments, "--set", "recovered=0.5"]) == 1
    said = capsys.readouterr().err
    assert "own prefill gains" in said and "50% are asked for" in said
    assert (
        "asked for (the maps explain" in said
        and "raise layers, nearest, rank or embeddings" in said
    )
    assert not (tmp_path / "bridge").exists()


def test_a_bridge_too_large_is_refused(
    tiny_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, tiny_directory, tiny_directory)
    assert main(["bridge", "fit", "--config", str(config), "--set", "share=0.01"]) == 1
    said = capsys.readouterr().err
    assert "of the decoder's parameters, where 1.0% are allowed; lower rank" in said
    assert not (tmp_path / "bridge").exists()


def test_a_gated_bridge_is_the_same_however_often_it_is_fitted(
    tiny_directory: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path, tiny_directory, tiny_directory)
    digests = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        run("fit", config, "kind=gated", "width=4")
        digests.append(bridge_digest(tmp_path / "bridge"))
    assert digests[0] == digests[1]


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
    inspected = run("inspect", config)
    cosine, cost = inspected["cosine"], inspected["hand_off"]
    # 3 layers of (96: 4 projections of 96 x 96, of which half for keys and values, and
    # a feed-forward layer of 3 x 96 x 192) and norms, over 1,000 tokens.
    weights = 3 * (3 * 96 * 96 + 3 * 96 * 192 + 2 * 96) + 96
    assert cost["flops"]["own_prefill"] == 2 * weights * 1000
    assert cost["flops"]["bridge"] == 2 * fitted["bridge_parameters"] * 1000
    times = cost["seconds"]["bridge"]
    assert 0 < times["min"] <= times["median"] <= times["max"]
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


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["layers=0"], "leaves nothing to map; set `embeddings`"),
        (["kind=copy", "embeddings=2"], "maps nothing; leave `embeddings` out"),
    ],
)
def test_a_bridge_of_nothing_is_refused_at_once(
    tmp_path: Path,
    overrides: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = write_config(tmp_path, tmp_path / "a", tmp_path / "b")
    arguments = ["bridge", "fit", "--config", str(config)]
    for override in overrides:
        arguments += ["--set", override]
    assert main(arguments) != 0
    assert said in capsys.readouterr().err
