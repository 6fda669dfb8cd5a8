"""Profiling: a layer that was changed is found, and the extremes are what they are."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from prefillshare.errors import ConfigError, IdentityError, UnsupportedModelError
from prefillshare.evals.runner import evaluate
from prefillshare.evals.sensitivity import (
    budget_layers,
    bytes_per_token,
    profile,
    profiled_layers,
)
from prefillshare.kv.identity import ModelId
from prefillshare.models.decoder import Decoder
from prefillshare.models.loading import freeze, load_model
from prefillshare.models.prefill import PrefillModule
from prefillshare.models.record import DecoderRecord
from prefillshare.models.tiny import save_tiny_model
from prefillshare.tasks.casefile import SHIPPING
from prefillshare.training.data import Example, Group
from prefillshare.training.schemes.cached import Cached
from prefillshare.training.schemes.one_row import Own
from tests.architectures import tiny
from tests.conftest import make_decoder
from tests.training.examples import group

ROOT = Path(__file__).resolve().parents[2]
LAYERS = 4


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(
        tmp_path_factory.mktemp("deep"), dtype=torch.float64, layers=LAYERS
    )


@pytest.fixture(scope="module")
def base(directory: Path) -> PreTrainedModel:
    """Attention counts, and first choices are likely: a change shows in the loss."""
    model: Any = load_model(directory, torch.float64)
    for layer in model.model.layers:
        layer.self_attn.v_proj.weight.data *= 6
    # Apart from the embeddings, to which it is tied.
    model.lm_head.weight = torch.nn.Parameter(20 * model.lm_head.weight)
    frozen: PreTrainedModel = freeze(model)
    return frozen


def changed_in(base: PreTrainedModel, layer: int) -> Any:
    """The base with other values in one layer."""
    record = DecoderRecord("shipping", "", "own", "last_token", "")
    model = Decoder.create(base, record, None).model.eval()
    model.base_model.layers[layer].self_attn.v_proj.weight.data *= -3
    return model


def answered_by(model: Any, unit: Group) -> Group:
    """The unit with `model`'s own greedy answers, of six tokens."""
    decoder = Decoder(model, DecoderRecord("shipping", "", "own", "last_token", ""))
    module = PrefillModule(model)
    return tuple(
        Example(
            e.prompt,
            tuple(
                decoder.generate(
                    module.prefill(e.prefill_ids),
                    e.prompt.remainder,
                    max_tokens=6,
                    stop_ids=frozenset(),
                )
            ),
            e.distance,
            e.depth,
        )
        for e in unit
    )


@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_changed_layer_is_the_sensitive_one(
    base: PreTrainedModel, layer: int
) -> None:
    model = changed_in(base, layer)
    units = [answered_by(model, group(n)) for n in ("shared_context", "independent")]
    found = profile(base, model, units, 1)
    increase = [fmean(nll) - fmean(found.own) for nll in found.by_layer]
    # Behind a change in layer 0 the hidden states differ so much that the layers
    # that read them matter even more.
    if layer > 0:
        assert max(range(LAYERS), key=lambda i: increase[i]) == layer
    assert increase[layer] > 0.1
    # What lies before the change is the same in both models.
    assert increase[:layer] == pytest.approx([0.0] * layer, abs=1e-9)
    assert found.best == (layer, layer + 1)
    assert found.context == (0, 0, 0, 1, 1)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_all_layers_are_own_prefill_and_none_is_naive_sharing(
    base: PreTrainedModel, method: str
) -> None:
    adapted = make_decoder(base, ModelId("")).model
    model = adapted if method == "lora" else changed_in(base, 1)
    units = [group("conversation"), group("independent")]
    own, naive = (evaluate(s, model, units).nll for s in (Own(), Cached(base)))
    every = profile(base, model, units, LAYERS)
    for mix in (every.by_group[0, LAYERS], every.own):
        assert mix == pytest.approx(own, abs=1e-7)
    assert every.naive == pytest.approx(naive, abs=1e-12)
    assert fmean(own) != pytest.approx(fmean(naive), abs=1e-3)
    assert every.best == (0, LAYERS)
    two = profile(base, model, units, 2)
    assert list(two.by_group) == [(0, 2), (1, 3), (2, 4)]
    lowest = min(fmean(nll) for nll in two.by_group.values())
    assert two.summary()["nll"]["best"] == lowest


def test_more_layers_than_there_are_cannot_be_profiled(base: PreTrainedModel) -> None:
    with pytest.raises(ConfigError, match="1 to 4 layers, got 5"):
        profile(base, base, [group("independent")], LAYERS + 1)


def test_recurrent_layers_cannot_be_profiled() -> None:
    model = tiny("lfm2").model
    with pytest.raises(UnsupportedModelError, match="lfm2 model has recurrent layers"):
        profile(model, model, [group("independent")], 1)


@given(st.integers(1, 200), st.integers(1, 1000))
def test_a_budget_is_the_fewest_layers_that_reach_it(
    layers: int, permille: int
) -> None:
    found = budget_layers(permille / 1000, layers)
    assert 1 <= found <= layers
    assert found * 1000 >= permille * layers > (found - 1) * 1000 or found == 1


def test_the_input_of_a_group_is_shipped_unless_it_is_the_token_ids(
    base: PreTrainedModel,
) -> None:
    # A layer's keys and values are 2 x 2 heads x 16, its input is 64 numbers.
    for layers, kv, entering in [((0, 0), 256, 0), ((1, 3), 128, 64), ((0, 1), 192, 0)]:
        shipped = bytes_per_token(base.config, torch.float32, layers)
        assert shipped == {"keys_and_values": 4 * kv, "layer_input": 4 * entering}


def sensitivity(arguments: list[str]) -> int:
    """`main` of train/sensitivity.py."""
    spec = importlib.util.spec_from_file_location(
        "s", ROOT / "train" / "sensitivity.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    status: int = module.main(arguments)
    return status


@pytest.fixture
def config(directory: Path, tmp_path: Path) -> Path:
    """Settings for a saved decoder with its own prefill."""
    model = load_model(directory, torch.float64)
    made = make_decoder(
        model,
        ModelId.from_directory(directory),
        prefill="own",
        suffix=SHIPPING.suffix,
    )
    made.save(tmp_path / "own")
    task = {"kind": "casefile", "agent": "shipping", "contexts": 3, "records": 3}
    fields = {
        "model": str(directory),
        "own": str(tmp_path / "own"),
        "task": task | {"questions": 2},
        "units": 2,
        "budget": 0.3,
        "dtype": "float64",
    }
    path = tmp_path / "sensitivity.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def test_the_script_writes_the_profile_that_a_comparison_reads(
    config: Path,
    directory: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.json"
    assert sensitivity(["--config", str(config), "--json", str(out)]) == 0
    results = json.loads(out.read_text())["results"]
    assert (results["layers"], results["examples"]) == (LAYERS, 4)
    assert len(results["by_layer"]) == LAYERS
    # 30 % of four layers, rounded up.
    assert [x["layers"] for x in results["by_group"]] == [[0, 2], [1, 3], [2, 4]]
    base_id = ModelId.from_directory(directory)
    best = profiled_layers(out, "shipping", base_id)
    assert f"recompute: [{best[0]}, {best[1]}]" in capsys.readouterr().out
    with pytest.raises(IdentityError, match="of 'shipping', not of 'invoicing'"):
        profiled_layers(out, "invoicing", base_id)
    with pytest.raises(IdentityError, match="the profile"):
        profiled_layers(out, "shipping", ModelId("another"))
    with pytest.raises(ConfigError, match="eval sensitivity --json"):
        profiled_layers(config, "shipping", base_id)


def test_a_decoder_of_another_task_is_not_profiled(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ["--config", str(config), "--set", "task.agent=invoicing"]
    assert sensitivity(other) == 1
    assert "listed for task 'invoicing'" in capsys.readouterr().err
