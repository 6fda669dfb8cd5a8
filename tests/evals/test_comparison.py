"""`train/evaluate.py` over two tiny decoders, and decoders that do not belong."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from transformers import PreTrainedModel

from prefillshare.kv.identity import ModelId
from prefillshare.tasks.casefile import INVOICING, SHIPPING
from prefillshare.training.decoders import decoder_trainer
from prefillshare.training.settings import TrainSettings
from tests.conftest import make_decoder

ROOT = Path(__file__).resolve().parents[2]


def evaluate(arguments: list[str]) -> int:
    """`main` of train/evaluate.py."""
    spec = importlib.util.spec_from_file_location("e", ROOT / "train" / "evaluate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    status: int = module.main(arguments)
    return status


def write_config(directory: Path, decoders: Path, target: Path) -> Path:
    task = {
        "task": {
            "kind": "casefile",
            "agent": "shipping",
            "contexts": 2,
            "records": 4,
            "questions": 3,
        },
        "shared": str(decoders / "shared"),
        "own": str(decoders / "own"),
    }
    config = {
        "model": str(directory),
        "tasks": [task],
        "dtype": "float64",
    }
    target.write_text(yaml.safe_dump(config))
    return target


def test_four_systems_and_a_floor(
    tiny_directory: Path, tiny_model: PreTrainedModel, tiny_id: ModelId, tmp_path: Path
) -> None:
    suffix = SHIPPING.suffix
    shared = make_decoder(tiny_model, tiny_id, suffix=suffix)
    shared.save(tmp_path / "shared")
    own = make_decoder(tiny_model, tiny_id, suffix=suffix, prefill="own", seed=2)
    own.save(tmp_path / "own")
    config = write_config(tiny_directory, tmp_path, tmp_path / "eval.yaml")
    out = tmp_path / "out.json"
    assert evaluate(["--config", str(config), "--json", str(out)]) == 0
    results = json.loads(out.read_text())["results"]
    nll = {s: t["shipping"]["nll"] for s, t in results["accuracy"].items()}
    assert set(nll) == {"base", "full", "naive", "shared", "no_context"}
    # Five different pairs of models or prompts: none is another's figure again.
    assert len({round(x, 9) for x in nll.values()}) == 5
    paired = results["paired"]["naive_minus_shared"]["shipping"]
    assert paired["mean"] == pytest.approx(nll["naive"] - nll["shared"])
    assert results["accuracy"]["base"]["shipping"]["n"] == 6


def test_the_figures_are_put_on_the_decoders_cards(
    tiny_directory: Path, tmp_path: Path
) -> None:
    for name, prefill in (("shared", "shared"), ("own", "own")):
        task = {"kind": "casefile", "agent": "shipping", "contexts": 1, "records": 8}
        fields: dict[str, object] = {"model": tiny_directory}
        fields |= {"output": tmp_path / "runs" / name}
        fields |= {"task": task, "prefill": prefill, "steps": 1, "dtype": "float64"}
        decoder_trainer(TrainSettings.model_validate(fields)).run(lambda _: None)
        saved = tmp_path / "runs" / name / "decoder"
        saved.rename(tmp_path / name)
    config = write_config(tiny_directory, tmp_path, tmp_path / "eval.yaml")
    out = tmp_path / "out.json"
    arguments = ["--config", str(config), "--json", str(out), "--set", "cards=true"]
    arguments += ["--set", "generate=2", "--set", "max_tokens=2"]
    assert evaluate(arguments) == 0
    report = json.loads(out.read_text())["results"]
    accuracy, tested = report["accuracy"], report["marks_non_inferiority"]
    # Two tokens are no answer, of anybody.
    assert tested["shared_minus_full"]["shipping"]["exact"]["difference"] == 0.0
    for folder, system in (("shared", "shared"), ("own", "full")):
        results = ModelCard.load(tmp_path / folder / "README.md").data["eval_results"]
        found = {result.metric_type: result.metric_value for result in results}
        figures = accuracy[system]["shipping"]
        wanted = {key: round(figures[key], 4) for key in ("exact_match", "nll")}
        marks = report["answers"][system]["shipping"]["marks"]
        assert "exact" in marks
        assert found == wanted | {name: x["mean"] for name, x in marks.items()}


@pytest.mark.parametrize(
    ("name", "suffix", "prefill", "message"),
    [
        ("invoicing", INVOICING.suffix, "own", "listed for task 'shipping'"),
        ("shipping", "another suffix", "own", "listed for task 'shipping'"),
        ("shipping", SHIPPING.suffix, "shared", "cannot read 'own'; train one"),
    ],
)
def test_a_decoder_that_does_not_belong_is_named(
    tiny_directory: Path,
    tiny_model: PreTrainedModel,
    tiny_id: ModelId,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    suffix: str,
    prefill: str,
    message: str,
) -> None:
    shared = make_decoder(tiny_model, tiny_id, suffix=SHIPPING.suffix)
    shared.save(tmp_path / "shared")
    own = make_decoder(
        tiny_model,
        tiny_id,
        name=name,
        suffix=suffix,
        prefill=prefill,  # type: ignore[arg-type]
    )
    own.save(tmp_path / "own")
    config = write_config(tiny_directory, tmp_path, tmp_path / "eval.yaml")
    assert evaluate(["--config", str(config)]) == 1
    assert message in capsys.readouterr().err
