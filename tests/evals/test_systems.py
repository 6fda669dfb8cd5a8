"""The whole comparison set on tiny decoders, and what may be left out of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from prefillshare.config import load_config
from prefillshare.errors import ConfigError, UnsupportedModelError
from prefillshare.evals.comparison import (
    EvalSettings,
    compare,
    differences,
    verdicts,
)
from prefillshare.evals.runner import Scores
from prefillshare.evals.sensitivity import SensitivitySettings
from prefillshare.kv.identity import ModelId
from prefillshare.models.decoder import Decoder
from prefillshare.models.loading import load_model
from prefillshare.models.prompt import Boundary
from prefillshare.models.record import DecoderRecord, Prefill
from prefillshare.models.tiny import save_tiny_model
from prefillshare.tasks.casefile import SHIPPING
from prefillshare.training.settings import TrainSettings
from tests.conftest import make_decoder
from tests.evals.test_comparison import evaluate

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TASK = {"kind": "casefile", "agent": "shipping", "records": 3, "questions": 2}


def settings(directory: Path, **decoders: Any) -> EvalSettings:
    compared = {"task": {**TASK, "contexts": 2}, **decoders}
    fields = {"model": directory, "tasks": [compared], "dtype": "float64"}
    return EvalSettings.model_validate(fields)


def whole_copy(base: PreTrainedModel, base_id: ModelId, prefill: Prefill) -> Decoder:
    """A decoder of weights of its own, unlike the base's."""
    record = DecoderRecord(
        "shipping", base_id.digest, prefill, "last_token", SHIPPING.suffix
    )
    decoder = Decoder.create(base, record, None)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        for parameter in decoder.model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return decoder


@pytest.fixture
def decoders(
    tiny_model: PreTrainedModel, tiny_id: ModelId, tmp_path: Path
) -> dict[str, Path]:
    """One for each prefill, `shared_full` and `one_model` besides."""
    prefills: tuple[Prefill, ...] = ("own", "shared", "icarus", "recompute")
    made: dict[str, Decoder] = {
        prefill: make_decoder(
            tiny_model, tiny_id, prefill=prefill, suffix=SHIPPING.suffix, seed=seed
        )
        for seed, prefill in enumerate(prefills, 10)
    }
    made["one_model"] = make_decoder(
        tiny_model, tiny_id, name="all", prefill="own", suffix="", seed=20
    )
    made["shared_full"] = whole_copy(tiny_model, tiny_id, "shared")
    for name, decoder in made.items():
        decoder.save(tmp_path / name)
    return {name: tmp_path / name for name in made}


def test_the_whole_set(
    tiny_directory: Path, tiny_id: ModelId, decoders: dict[str, Path], tmp_path: Path
) -> None:
    results = {"task": "shipping", "model_id": tiny_id.digest, "best": [0, 1]}
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"results": results}))
    recompute = decoders.pop("recompute")
    accuracy = compare(
        settings(
            tiny_directory,
            **decoders,
            alora=decoders["shared"],
            recompute=profile,
            recomputed=[{"layers": [k, 2], "decoder": recompute} for k in (1, 2)],
        )
    )
    nll = {system: tasks["shipping"].nll for system, tasks in accuracy.items()}
    # The same weights on the same cache, made in another way.
    assert nll.pop("alora") == pytest.approx(nll["shared"], abs=1e-6)
    assert set(nll) == {
        *("base", "full", "naive", "recompute", "shared", "shared_full", "icarus"),
        *("recomputed_1_2", "recomputed_2_2", "one_model", "no_context"),
    }
    # No other two systems are the same.
    assert len({round(sum(values), 6) for values in nll.values()}) == len(nll)
    paired = differences(accuracy)
    judged = verdicts(accuracy, 0.02)
    others = set(accuracy) - {"shared"}
    assert set(paired) == {f"{other}_minus_shared" for other in others}
    assert set(judged) == {f"shared_minus_{other}" for other in others}
    mean = paired["icarus_minus_shared"]["shipping"]["mean"]
    assert mean == pytest.approx((sum(nll["icarus"]) - sum(nll["shared"])) / 4)
    assert judged["shared_minus_full"]["shipping"]["margin"] == 0.02


def test_a_decoder_alone_is_scored_and_nothing_is_paired(
    tiny_directory: Path,
    decoders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    alone = settings(tiny_directory, own=decoders["own"])
    config, out = tmp_path / "eval.yaml", tmp_path / "out.json"
    config.write_text(alone.model_dump_json(exclude_unset=True))
    assert evaluate(["--config", str(config), "--json", str(out)]) == 0
    results = json.loads(out.read_text())["results"]
    assert list(results["accuracy"]) == ["base", "full", "naive"]
    assert results["paired"] == results["non_inferiority"] == {}
    assert "shared" not in capsys.readouterr().out
    with_shared = [f"tasks.0.shared={decoders['shared']}", "margin=0.05"]
    arguments = [word for each in with_shared for word in ("--set", each)]
    assert evaluate(["--config", str(config), *arguments]) == 0
    assert "is shared at most 5 points worse?" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("named", "message"),
    [({}, "no decoder is named"), ({"recompute": [0, 1]}, "the decoder in `own`")],
)
def test_settings_that_name_too_little_are_refused(
    tiny_directory: Path, named: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        settings(tiny_directory, **named)


def test_a_whole_copy_is_no_alora(
    tiny_directory: Path, decoders: dict[str, Path]
) -> None:
    with pytest.raises(ConfigError, match="needs a LoRA decoder"):
        compare(settings(tiny_directory, alora=decoders["shared_full"]))


def test_recurrent_models_are_compared_where_nothing_is_mixed(tmp_path: Path) -> None:
    directory = save_tiny_model(
        tmp_path / "lfm2", architecture="lfm2", dtype=torch.float64
    )
    base = load_model(directory, torch.float64)
    base_id = ModelId.from_directory(directory)
    prefills: tuple[Prefill, ...] = ("own", "shared", "icarus")
    for prefill in prefills:
        whole_copy(base, base_id, prefill).save(tmp_path / prefill)
    named = {prefill: tmp_path / prefill for prefill in prefills}
    with pytest.raises(UnsupportedModelError, match="icarus cannot be had for a lfm2"):
        compare(settings(directory, **named))
    del named["icarus"]
    accuracy = compare(settings(directory, **named))
    nll = {system: tasks["shipping"].nll for system, tasks in accuracy.items()}
    # Both decoders have the same weights; only the prefill differs.
    assert nll["naive"] == nll["shared"] != nll["full"]


def test_a_different_boundary_is_named(
    tiny_directory: Path,
    tiny_model: PreTrainedModel,
    tiny_id: ModelId,
    decoders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    boundary: Boundary = "suffix"
    other = make_decoder(tiny_model, tiny_id, suffix=SHIPPING.suffix, boundary=boundary)
    other.save(tmp_path / "other")
    named = settings(tiny_directory, own=decoders["own"], shared=tmp_path / "other")
    config = tmp_path / "eval.yaml"
    config.write_text(named.model_dump_json(exclude_unset=True))
    assert evaluate(["--config", str(config)]) == 1
    shown = capsys.readouterr().err
    assert f"last_token ({decoders['own']}) and suffix ({tmp_path / 'other'})" in shown


def test_the_shipped_comparison_names_what_the_shipped_configs_train() -> None:
    """Every one of them, and on the prefill that it was trained on."""
    trained = {}
    for path in (CONFIGS / "train" / "comparison").glob("*.yaml"):
        run = load_config(TrainSettings, path, [])
        trained[run.output / "decoder"] = run
    shipped = load_config(EvalSettings, CONFIGS / "eval" / "comparison.yaml", [])
    (compared,) = shipped.tasks
    named = dict(compared.decoders())
    assert named == {path: run.prefill for path, run in trained.items()}
    for each in compared.recomputed:
        assert each.layers == trained[each.decoder].recompute
    assert compared.alora is not None and trained[compared.alora].path == "one_pass"
    profiled = CONFIGS / "eval" / "sensitivity.yaml"
    assert load_config(SensitivitySettings, profiled, []).own == compared.own


def test_verdicts() -> None:
    contexts = tuple(range(40))

    def scores(exact: float, context: tuple[int, ...] = contexts) -> Scores:
        n = len(context)
        return Scores((1.0,) * n, (exact,) * n, (0,) * n, (1,) * n, context)

    accuracy = {
        "full": {"one": scores(0.0), "two": scores(1.0), "three": scores(0.0)},
        "shared": {
            "one": scores(1.0),
            "two": scores(0.0),
            "three": scores(1.0, (0,) * 40),
        },
        "icarus": {"four": scores(1.0)},
    }
    found = verdicts(accuracy, 0.01)
    # One task has a single context, the other no shared decoder.
    assert list(found) == ["shared_minus_full"]
    assert {task: x["verdict"] for task, x in found["shared_minus_full"].items()} == {
        "one": "non-inferior",
        "two": "inferior",
    }
