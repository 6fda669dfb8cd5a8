"""Model cards: they say what the run did, and the code on them runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import EvalResult, ModelCard
from transformers import PreTrainedModel

from prefillshare.kv.identity import ModelId
from prefillshare.models.decoder import Decoder
from prefillshare.models.loading import hub_id, load_model, load_tokenizer
from prefillshare.models.prefill import PrefillModule
from prefillshare.models.prompt import Boundary, lay_out
from prefillshare.models.record import DecoderRecord, Prefill
from prefillshare.models.tiny import save_tiny_model
from prefillshare.training.card import add_evaluation
from prefillshare.training.card_code import BASE, SAVED
from prefillshare.training.decoders import decoder_trainer
from prefillshare.training.readable import prefill_trainer
from prefillshare.training.settings import PrefillSettings, TrainSettings
from tests.conftest import make_decoder
from tests.training.makers import full_decoder
from tests.training.test_trainer import TASK, ignore, settings


@pytest.fixture(scope="module")
def lively_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with weights so wide that a cache shows in what is generated from it."""
    directory = save_tiny_model(tmp_path_factory.mktemp("lively"), dtype=torch.float64)
    model = load_model(directory, torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    return directory


def card_of(directory: Path) -> ModelCard:
    card: ModelCard = ModelCard.load(directory / "README.md")
    return card


def trained(run: TrainSettings) -> Path:
    return decoder_trainer(run).run(ignore)


def figure(card: ModelCard, name: str) -> str:
    found = re.search(rf"^\| {re.escape(name)} \| (.+) \|$", card.text, re.MULTILINE)
    assert found is not None, name
    return found.group(1)


def test_a_decoders_card_says_what_it_reads_and_how_it_was_trained(
    tiny_directory: Path, tiny_id: ModelId, tmp_path: Path
) -> None:
    run = settings(tiny_directory, tmp_path, boundary="suffix", steps=3, seed=7)
    card = card_of(trained(run))
    log = (tmp_path / "metrics.jsonl").read_text().splitlines()
    last = json.loads(log[-1])
    assert figure(card, "ModelId of the prefill module") == f"`{tiny_id.digest}`"
    assert figure(card, "boundary").startswith("`suffix`")
    assert "float64" in figure(card, "KV formats")
    assert figure(card, "steps") == "3"
    loss = figure(card, "final loss (nats per response token)")
    assert loss == f"{last['loss']:.4f}"
    assert figure(card, "seed") == "7"
    assert figure(card, "training data of shipping").startswith("4 units, 8 examples")
    assert f"torch {torch.__version__.split('+')[0]}" in figure(card, "versions")
    assert "agent: shipping" in card.text
    assert yaml.safe_load(card.data.to_yaml()) == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["prefillshare", "decoder", "shared-kv-cache"],
    }


def test_the_card_changes_with_the_run(tiny_directory: Path, tmp_path: Path) -> None:
    one = card_of(trained(settings(tiny_directory, tmp_path / "1", steps=2)))
    more = {"steps": 4, "method": "full", "learning_rate": 1e-3, "prefill": "own"}
    two = card_of(trained(settings(tiny_directory, tmp_path / "2", **more)))
    for name in ("steps", "final loss (nats per response token)"):
        assert figure(one, name) != figure(two, name)
    assert (one.data["library_name"], two.data["library_name"]) == (
        "peft",
        "transformers",
    )
    assert "its own cache" in two.text
    assert "its own cache" not in one.text
    third = settings(tiny_directory, tmp_path / "3", steps=1, prefill="icarus")
    unserved = card_of(trained(third))
    assert "does not serve" in unserved.text
    assert "How to load it" not in unserved.text


# PEFT asks transformers for a property that is being renamed.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("prefill", ["shared", "own"])
@pytest.mark.parametrize("boundary", ["last_token", "suffix"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_code_on_the_card_generates_what_the_decoder_does(
    lively_directory: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    method: str,
    boundary: Boundary,
    prefill: Prefill,
) -> None:
    run = settings(
        lively_directory, tmp_path, steps=1, method=method, boundary=boundary,
        prefill=prefill,
    )  # fmt: skip
    saved = trained(run)
    base = load_model(lively_directory, torch.float64)
    base_id = ModelId.from_directory(lively_directory)
    text = card_of(saved).text
    record = DecoderRecord.load(saved)
    # The same card over weights that differ from the base's enough to be told apart.
    maker = make_decoder if method == "lora" else full_decoder
    Decoder(maker(base, base_id).model, record).save(saved)
    decoder = Decoder.load(saved, base, base_id)
    expected = {
        model: answer(decoder, model, lively_directory)
        for model in (base, decoder.model)
    }
    assert len(set(expected.values())) == 2, "whose cache is read has to show"
    reader = base if prefill == "shared" else decoder.model
    for code in re.findall(r"```python\n(.*?)\n```", text, re.DOTALL):
        code = code.replace(BASE, str(lively_directory)).replace(SAVED, str(saved))
        exec(compile(code, "card", "exec"), {})
        assert capsys.readouterr().out == expected[reader] + "\n"
    assert text.count("```python") == 2


def answer(decoder: Decoder, prefill: PreTrainedModel, directory: Path) -> str:
    tokenizer, record = load_tokenizer(directory), decoder.record
    messages = [{"role": "user", "content": "…"}]
    prompt = lay_out(tokenizer, messages, record.suffix, record.boundary)
    cache = PrefillModule(prefill).prefill(prompt.token_ids[: prompt.boundary])
    stop = frozenset({int(tokenizer.eos_token_id)})
    ids = decoder.generate(cache, prompt.remainder, max_tokens=64, stop_ids=stop)
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


def test_a_tuned_modules_card_names_both_modules(
    tiny_directory: Path, tiny_id: ModelId, tmp_path: Path
) -> None:
    run = PrefillSettings(
        model=tiny_directory, output=tmp_path, dtype="float64", steps=2, tasks=[TASK]
    )
    module = prefill_trainer(run).run(ignore)
    card = card_of(module)
    tuned = ModelId.from_directory(module)
    assert f"ModelId is `{tuned.digest}`" in card.text
    assert f"tuned from `{tiny_id.digest}`" in card.text
    assert figure(card, "training data of all tasks").startswith("4 units, 8 examples")
    assert card.data["library_name"] == "transformers"


def test_a_base_from_the_hub_is_named(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--lab--small-1B" / "snapshots" / "abc"
    assert hub_id(snapshot) == "lab/small-1B"
    assert hub_id(tmp_path / "models" / "base") is None


def test_an_evaluation_is_put_on_the_card_and_replaced(
    tiny_directory: Path, tmp_path: Path
) -> None:
    saved = trained(settings(tiny_directory, tmp_path, steps=1))
    for value in (0.25, 0.75):
        result = EvalResult(
            task_type="text-generation",
            dataset_type="casefile",
            dataset_name="case files",
            metric_type="exact_match",
            metric_value=value,
        )
        add_evaluation(saved, [result])
    card = card_of(saved)
    assert figure(card, "case files: exact_match") == "0.75"
    assert card.text.count("## Evaluation") == 1
    (stored,) = card.data["eval_results"]
    assert (stored.metric_type, stored.metric_value) == ("exact_match", 0.75)
    assert figure(card, "steps") == "1"
