"""Training as users start it: through accelerate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from prefillshare.cli import main
from prefillshare.kv.identity import ModelId
from prefillshare.models.record import DecoderRecord
from prefillshare.training.decoders import decoder_trainer
from prefillshare.training.readable import prefill_trainer
from prefillshare.training.settings import CaseFiles, PrefillSettings, TrainSettings


@pytest.mark.timeout(240)
def test_accelerate_launch_trains_saves_and_reports(
    tiny_directory: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = {
        "model": str(tiny_directory),
        "output": str(tmp_path / "run"),
        "dtype": "float64",
        "steps": 12,
        "task": {
            "kind": "casefile",
            "agent": "invoicing",
            "contexts": 3,
            "records": 3,
            "questions": 2,
        },
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    out = tmp_path / "out.json"
    arguments = ["train", "--config", str(tmp_path / "train.yaml")]
    assert main([*arguments, "--set", "steps=10", "--json", str(out)]) == 0
    results = json.loads(out.read_text())["results"]
    assert len(results["losses"]) == 10
    record = DecoderRecord.load(Path(results["decoder"]))
    assert (record.name, record.prefill) == ("invoicing", "shared")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == results["losses"]
    assert "10/10 loss" in capfd.readouterr().out


@pytest.mark.timeout(240)
def test_what_is_wrong_in_a_configuration_is_wrong_use_when_launched_too(
    tiny_directory: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It shows only once the model is there, in the launched process."""
    config = {
        "model": str(tiny_directory),
        "output": str(tmp_path / "run"),
        "lora": {"targets": ["nonesuch"]},
        "task": {"kind": "casefile", "agent": "invoicing", "contexts": 1},
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", "--config", str(tmp_path / "train.yaml")]) == 2
    told = capfd.readouterr().err
    assert "lora.targets names 'nonesuch'" in told
    assert "training did not start; see above" in told


@pytest.mark.timeout(300)
def test_two_processes_with_one_unit_equal_one_process_with_two(
    tiny_directory: Path, tmp_path: Path
) -> None:
    """20 steps of SGD in fp64, over gloo."""
    config = {
        "model": str(tiny_directory),
        "dtype": "float64",
        "optimizer": "sgd",
        "learning_rate": 0.05,
        "steps": 20,
        "task": {
            "kind": "casefile",
            "agent": "shipping",
            "contexts": 5,
            "records": 3,
            "questions": 2,
        },
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    losses, tokens = {}, {}
    for processes, units in ((2, 1), (1, 2)):
        output = tmp_path / str(processes)
        arguments = ["train", "--config", str(tmp_path / "train.yaml")]
        arguments += ["--set", f"batch.units={units}", "--set", f"output={output}"]
        arguments += ["--processes", str(processes)]
        out = tmp_path / f"{processes}.json"
        assert main([*arguments, "--json", str(out)]) == 0
        losses[processes] = json.loads(out.read_text())["results"]["losses"]
        lines = (output / "metrics.jsonl").read_text().splitlines()
        tokens[processes] = [json.loads(line)["tokens"] for line in lines]
    assert tokens[1] == tokens[2]
    assert len(set(tokens[1])) > 1
    assert losses[1][-1] < losses[1][0]
    assert losses[2] == pytest.approx(losses[1], rel=0, abs=1e-8)
    weights = [
        load_file(tmp_path / name / "decoder" / "adapter_model.safetensors")
        for name in ("1", "2")
    ]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=0, atol=1e-8)


@pytest.mark.timeout(240)
def test_a_prefill_module_is_tuned_and_decoders_are_trained_on_it(
    tiny_directory: Path, tmp_path: Path
) -> None:
    task = {"kind": "casefile", "contexts": 3, "records": 3, "questions": 2}
    config = {
        "model": str(tiny_directory),
        "output": str(tmp_path / "prefill"),
        "dtype": "float64",
        "steps": 4,
        "tasks": [{**task, "agent": "refund"}, {**task, "agent": "locate"}],
    }
    (tmp_path / "prefill.yaml").write_text(yaml.safe_dump(config))
    arguments = ["train", "prefill", "--config", str(tmp_path / "prefill.yaml")]
    assert main(arguments) == 0
    module = tmp_path / "prefill" / "module"
    tuned = ModelId.from_directory(module)
    assert tuned != ModelId.from_directory(tiny_directory)
    decoder = TrainSettings.model_validate(
        {
            "model": module,
            "output": tmp_path / "decoder",
            "dtype": "float64",
            "steps": 2,
            "task": {**task, "agent": "shipping"},
        }
    )
    saved = decoder_trainer(decoder).run(lambda _: None)
    assert DecoderRecord.load(saved).model_id == tuned.digest
    # Decoders may hang on a module, so it is never written over.
    assert main(arguments) == 1


def test_a_jointly_tuned_module_is_saved(tiny_directory: Path, tmp_path: Path) -> None:
    tasks = [
        CaseFiles(agent=agent, contexts=2, records=3, questions=2)
        for agent in ("refund", "locate")
    ]
    settings = PrefillSettings(
        model=tiny_directory,
        output=tmp_path,
        dtype="float64",
        steps=15,
        mode="joint",
        method="full",
        learning_rate=1e-3,
        tasks=tasks,
    )
    losses: list[float] = []
    module = prefill_trainer(settings).run(lambda entry: losses.append(entry.loss))
    assert losses[-1] < losses[0]
    assert ModelId.from_directory(module) != ModelId.from_directory(tiny_directory)


def test_a_failed_run_fails_the_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    missing = ["--set", f"model={tmp_path}/none", "--set", f"output={tmp_path}/run"]
    missing += ["--set", "task={kind: casefile, agent: shipping}"]
    assert main(["train", *missing]) == 2
    assert "config.json is missing" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("lora.targets=nosuch", "lora.targets names 'nosuch', but no layer"),
        ("lora.targets=[q_proj, nosuch]", "names 'nosuch', but no layer"),
        ("lora.targets=[]", "names nothing, but no layer"),
        ("lora.targets=(", "lora.targets '(' is no regular expression"),
        ("lora.targets=[norm]", "no adapter fits the layers that lora.targets names"),
        ("task.agent=nosuch", "no agent 'nosuch'; the case file has shipping"),
        ("task.depths=[]", "agent 'shipping' was given no hand-off depth"),
    ],
)
def test_wrong_use_is_named_and_exits_2(
    tiny_directory: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    wrong: str,
    message: str,
) -> None:
    arguments = ["train", "--in-process", "--set", f"model={tiny_directory}"]
    arguments += ["--set", f"output={tmp_path}/run"]
    arguments += ["--set", "task={kind: casefile, agent: shipping}"]
    assert main([*arguments, "--set", wrong]) == 2
    said = capfd.readouterr().err
    assert message in said and "Traceback" not in said
    assert not (tmp_path / "run" / "decoder").exists()
