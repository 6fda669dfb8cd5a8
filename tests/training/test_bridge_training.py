"""Decoders that are trained with their bridge, and models that were pruned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prefillshare.cli import main
from prefillshare.config import load_config
from prefillshare.errors import IdentityError
from prefillshare.kv.identity import ModelId
from prefillshare.models.bridge.bridge import bridge_of
from prefillshare.models.bridge.storage import bridge_digest, load_bridge
from prefillshare.models.decoder import Decoder
from prefillshare.models.prune import prune
from prefillshare.models.tiny import save_tiny_model
from prefillshare.training.bridges.ends import BridgeSettings, Ends
from prefillshare.training.bridges.inspection import bridged
from prefillshare.training.decoders import decoder_run
from prefillshare.training.packing import pack
from prefillshare.training.schemes.base import score
from prefillshare.training.settings import TrainSettings
from tests.training.bridge_commands import TASK, run, write_config
from tests.words import word_tokenizer


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model, with another tokenizer."""
    directory = save_tiny_model(
        tmp_path_factory.mktemp("target"), layers=3, hidden=96, dtype=torch.float64
    )
    word_tokenizer().save_pretrained(directory)
    return directory


def decoder_settings(folder: Path, source: Path, target: Path, **changes: Any) -> Any:
    fields: dict[str, Any] = {"model": source, "decoder_model": target}
    fields |= {"bridge": folder / "bridge"}
    fields |= {"output": folder / "run", "task": {**TASK, "contexts": 2}}
    fields |= {"dtype": "float64", "steps": 12, "learning_rate": 0.01, **changes}
    return TrainSettings.model_validate(fields)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_decoder_and_its_bridge_are_trained_saved_and_loaded(
    tiny_directory: Path, target: Path, tmp_path: Path, method: str
) -> None:
    config = write_config(tmp_path, tiny_directory, target)
    run("fit", config, "rank=4", "embeddings=2", "tokens=2000")
    settings = decoder_settings(tmp_path, tiny_directory, target, method=method)
    experiment, trainer = decoder_run(settings)
    before = {n: p.clone() for n, p in experiment.workshop.weights.named_parameters()}
    losses: list[float] = []
    saved = trainer.run(lambda entry: losses.append(entry.loss))
    assert sum(losses[-3:]) < sum(losses[:3])
    for name, parameter in experiment.workshop.weights.named_parameters():
        assert torch.equal(parameter, before[name]), name
    (trained,) = experiment.decoders
    (weights,) = saved.glob("*model.safetensors")
    assert not any("bridge" in name for name in load_file(weights))
    card = (saved / "README.md").read_text()
    weights_id = ModelId.from_directory(target).digest
    assert f"started from another model, `{weights_id}`" in card
    # No code that would load it over the wrong weights.
    assert "## How to load it" not in card
    loaded = experiment.workshop.load(saved)
    assert loaded.record.bridge == bridge_digest(saved / "bridge")
    fresh, kept = bridge_of(loaded.model), bridge_of(trained.model)
    assert fresh is not None and kept is not None
    fitted = load_bridge(tmp_path / "bridge").state_dict()
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(tensor, kept.state_dict()[name])
        assert not torch.equal(tensor, fitted[name])
    packed = pack(experiment.groups[0][0])
    with torch.no_grad():
        mine, theirs = (
            score(experiment.scheme, model.eval(), packed).logits
            for model in (loaded.model, trained.model)
        )
    assert torch.equal(mine, theirs)
    with pytest.raises(IdentityError, match="started from the weights of"):
        Decoder.load(saved, experiment.base, experiment.workshop.model_id)


@pytest.mark.parametrize(("rate", "expected"), [(None, 1e-3), (0.004, 4e-3)])
def test_a_bridge_learns_at_a_rate_of_its_own(
    tiny_directory: Path, target: Path, tmp_path: Path, rate: Any, expected: float
) -> None:
    """One SGD step moves weights by rate times gradient."""
    run("fit", write_config(tmp_path, tiny_directory, target), "rank=4")
    changes = {"bridge_learning_rate": rate, "optimizer": "sgd", "steps": 1}
    changes |= {"warmup_steps": 0, "max_grad_norm": 1e9}
    settings = decoder_settings(tmp_path, tiny_directory, target, **changes)
    experiment, trainer = decoder_run(settings)
    (decoder,) = experiment.decoders
    before = {n: p.detach().clone() for n, p in decoder.model.named_parameters()}
    gradients: dict[str, torch.Tensor] = {}
    for name, parameter in decoder.model.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(
                lambda p, name=name: gradients.update({name: p.grad.clone()})
            )
    trainer.run(no_word)
    assert any("bridge." in name for name in gradients)
    for name, parameter in decoder.model.named_parameters():
        if name in gradients:
            used = expected if name.startswith("bridge.") else 0.01
            wanted = before[name] - used * gradients[name]
            torch.testing.assert_close(parameter.detach(), wanted)


def test_the_other_model_can_prefill_for_itself(
    tiny_directory: Path, target: Path, tmp_path: Path
) -> None:
    changes = {"bridge": None, "prefill": "own", "steps": 1}
    settings = decoder_settings(tmp_path, tiny_directory, target, **changes)
    experiment, trainer = decoder_run(settings)
    saved = trainer.run(lambda _: None)
    record = experiment.workshop.load(saved).record
    assert record.bridge is None
    assert record.weights_id == ModelId.from_directory(target).digest


def test_a_bridge_can_be_trained_alone(
    tiny_directory: Path, target: Path, tmp_path: Path
) -> None:
    run("fit", write_config(tmp_path, tiny_directory, target), "rank=4")
    settings = decoder_settings(tmp_path, tiny_directory, target, bridge_alone=True)
    experiment, trainer = decoder_run(settings)
    losses: list[float] = []
    saved = trainer.run(lambda entry: losses.append(entry.loss))
    assert sum(losses[-3:]) < sum(losses[:3])
    # Nothing but the bridge was learned, and nothing else is kept.
    assert not list(saved.glob("*.safetensors"))
    base_id, weights_id = map(ModelId.from_directory, (tiny_directory, target))
    weights = experiment.workshop.weights
    loaded = Decoder.load(saved, weights, base_id, weights_id=weights_id)
    (trained,) = experiment.decoders
    states = trained.model.state_dict()
    learned = bridge_of(trained.model)
    assert learned is not None
    fitted = load_bridge(tmp_path / "bridge").state_dict()
    changed = learned.state_dict().items()
    assert all(not torch.equal(tensor, fitted[name]) for name, tensor in changed)
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, states[name]), name
    with pytest.raises(ValueError, match="`bridge_alone` and .* go with `bridge`"):
        decoder_settings(
            tmp_path,
            tiny_directory,
            target,
            bridge_alone=True,
            bridge=None,
            prefill="own",
        )


def test_a_finished_bridged_decoder_can_be_trained_again(
    tiny_directory: Path, target: Path, tmp_path: Path
) -> None:
    run("fit", write_config(tmp_path, tiny_directory, target), "rank=4")
    settings = decoder_settings(tmp_path, tiny_directory, target, steps=1)
    decoder_run(settings)[1].run(no_word)
    again = settings.model_copy(update={"resume": False})
    assert decoder_run(again)[1].run(no_word).exists()


def test_a_run_does_not_go_on_with_another_bridge(
    tiny_directory: Path, target: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path, tiny_directory, target)
    run("fit", config, "rank=4")
    settings = decoder_settings(tmp_path, tiny_directory, target)
    first = decoder_run(settings)[0].identity()
    run("fit", config, "rank=4")
    assert decoder_run(settings)[0].identity() == first
    run("fit", config, "rank=4", "ridge=1.0")
    assert decoder_run(settings)[0].identity() != first


def no_word(*_: Any) -> None:
    """Nobody listens."""


@pytest.mark.parametrize(
    "changes",
    [{"bridge": None}, {"prefill": "own"}, {"decoder_model": None}],
    ids=str,
)
def test_a_bridge_needs_two_models_and_a_shared_prefill(
    changes: dict[str, Any],
) -> None:
    with pytest.raises(ValueError, match="`bridge` goes together with"):
        decoder_settings(Path(), Path("a"), Path("b"), **changes)
    with pytest.raises(ValueError, match="`decoder_model` goes with"):
        decoder_settings(Path(), Path("a"), Path("b"), bridge=None, prefill="icarus")


def test_a_pruned_models_layers_are_passed_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = save_tiny_model(tmp_path / "whole", layers=5, dtype=torch.float64)
    prune(whole, tmp_path / "half", layers=3)
    config = write_config(tmp_path, whole, tmp_path / "half")
    found = run("fit", config, "kind=copy")
    assert found["sources"] == [[0], [2], [4]] and found["bridge_parameters"] == 0
    settings = load_config(BridgeSettings, config, [])
    ends = Ends.open(settings)
    pair = ends.caches(next(ends.prompts(settings.tasks, "train")))
    made = bridged(load_bridge(tmp_path / "bridge", ends.ids), pair)
    for number, (keys, values) in enumerate(made):
        assert torch.equal(keys, pair.source[2 * number][0])
        assert torch.equal(values, pair.source[2 * number][1])
    other = save_tiny_model(tmp_path / "other", layers=5, seed=9)
    arguments = ["bridge", "fit", "--config", str(config), "--set", "kind=copy"]
    assert main([*arguments, "--set", f"model={other}"]) == 1
    assert "half belongs to prefill module" in capsys.readouterr().err


def test_layers_that_nobody_matched_are_not_passed_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = save_tiny_model(tmp_path / "whole", layers=5)
    short = save_tiny_model(tmp_path / "short", layers=3)
    config = write_config(tmp_path, whole, short)
    arguments = ["bridge", "fit", "--config", str(config), "--set", "kind=copy"]
    assert main(arguments) == 1
    assert "was not pruned by" in capsys.readouterr().err
