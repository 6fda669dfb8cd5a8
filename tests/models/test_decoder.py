"""Decoders on disk, and whom they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from prefillshare.errors import CheckpointError, ConfigError, IdentityError
from prefillshare.kv.identity import ModelId
from prefillshare.models.decoder import Decoder
from prefillshare.models.loading import hub_id, load_model, share_weights
from prefillshare.models.prefill import PrefillModule
from prefillshare.models.record import RECORD_FILE
from prefillshare.models.tiny import save_tiny_model
from tests.conftest import make_decoder
from tests.training.makers import activated_decoder

IDS = list(range(10, 60))


def greedy(decoder: Decoder, module: PrefillModule) -> list[int]:
    cache = module.prefill(IDS[:-1])
    return list(decoder.generate(cache, IDS[-1:], max_tokens=8, stop_ids=frozenset()))


def test_a_saved_decoder_generates_the_same(
    tiny_model: PreTrainedModel, tiny_id: ModelId, tmp_path: Path
) -> None:
    module = PrefillModule(tiny_model)
    decoder = make_decoder(tiny_model, tiny_id)
    decoder.save(tmp_path)
    loaded = Decoder.load(tmp_path, tiny_model, tiny_id)
    assert loaded.record == decoder.record
    assert greedy(loaded, module) == greedy(decoder, module)
    plain = make_decoder(tiny_model, tiny_id, seed=2)
    assert greedy(plain, module) != greedy(decoder, module)


def test_a_decoder_of_another_module_is_refused(
    tiny_model: PreTrainedModel, tiny_id: ModelId, tmp_path: Path
) -> None:
    make_decoder(tiny_model, tiny_id).save(tmp_path / "decoder")
    other = save_tiny_model(tmp_path / "other", seed=1, dtype=torch.float64)
    other_id = ModelId.from_directory(other)
    with pytest.raises(IdentityError) as caught:
        Decoder.load(tmp_path / "decoder", load_model(other, torch.float64), other_id)
    assert tiny_id.short in str(caught.value)
    assert other_id.short in str(caught.value)


def test_a_decoder_is_held_to_its_prefill(
    tiny_model: PreTrainedModel, tiny_id: ModelId
) -> None:
    own = make_decoder(tiny_model, tiny_id, prefill="own")
    with pytest.raises(IdentityError, match="'own' prefill"):
        own.record.require_prefill("shared")


def test_a_missing_decoder_is_wrong_use(
    tiny_model: PreTrainedModel, tiny_id: ModelId, tmp_path: Path
) -> None:
    absent = tmp_path / "runs" / "decoder"
    with pytest.raises(ConfigError, match=f"no decoder in {absent}.*share train"):
        Decoder.load(absent, tiny_model, tiny_id)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"name": "x"}'])
def test_a_broken_record_is_named(
    tiny_model: PreTrainedModel, tiny_id: ModelId, tmp_path: Path, text: str
) -> None:
    (tmp_path / RECORD_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=RECORD_FILE):
        Decoder.load(tmp_path, tiny_model, tiny_id)


def test_the_record_is_plain_json(
    tiny_model: PreTrainedModel, tiny_id: ModelId, tmp_path: Path
) -> None:
    make_decoder(tiny_model, tiny_id, boundary="suffix").save(tmp_path)
    record = json.loads((tmp_path / RECORD_FILE).read_text())
    assert record["model_id"] == tiny_id.digest
    assert record["boundary"] == "suffix"


def test_shared_weights_are_the_same_memory(tiny_model: PreTrainedModel) -> None:
    copy = share_weights(tiny_model)
    for mine, theirs in zip(tiny_model.parameters(), copy.parameters(), strict=True):
        assert mine.data_ptr() == theirs.data_ptr()
    assert set(map(id, copy.modules())).isdisjoint(map(id, tiny_model.modules()))


def test_identity_sees_weights_template_and_rope_but_not_shards(tmp_path: Path) -> None:
    one = save_tiny_model(tmp_path / "one")
    first = ModelId.from_directory(one)
    load_model(one, torch.float32).save_pretrained(one, max_shard_size="20KB")
    (one / "model.safetensors").unlink(missing_ok=True)
    assert len(list(one.glob("*.safetensors"))) > 1
    assert ModelId.from_directory(one) == first
    assert ModelId.from_directory(save_tiny_model(tmp_path / "b", seed=1)) != first
    config = json.loads((one / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] *= 2
    (one / "config.json").write_text(json.dumps(config))
    assert ModelId.from_directory(one) != first


def test_a_full_disk_leaves_the_old_decoder_whole(
    tiny_model: PreTrainedModel,
    tiny_id: ModelId,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder = make_decoder(tiny_model, tiny_id)
    decoder.save(tmp_path / "decoder")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoder.model, "save_pretrained", full)
    with pytest.raises(CheckpointError, match="No space left.*free space"):
        decoder.save(tmp_path / "decoder")
    assert [p.name for p in tmp_path.iterdir()] == ["decoder"]
    assert Decoder.load(tmp_path / "decoder", tiny_model, tiny_id).record


def test_a_failed_save_leaves_the_switch_of_an_alora_as_it_was(
    tiny_model: PreTrainedModel,
    tiny_id: ModelId,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder = activated_decoder(tiny_model, tiny_id)
    (config,) = decoder.model.peft_config.values()
    seen: list[object] = []

    def full(*_: object) -> None:
        seen.append(config.alora_invocation_tokens)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoder.model, "save_pretrained", full)
    with pytest.raises(CheckpointError):
        decoder.save(tmp_path / "decoder")
    assert (seen, config.alora_invocation_tokens) == ([None], [0])


# PEFT asks transformers for a property that is being renamed.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("name", [None, "lab/small-1B"])
def test_no_path_of_this_machine_is_saved_and_plain_peft_loads_the_adapter(
    tiny_directory: Path, tiny_id: ModelId, tmp_path: Path, name: str | None
) -> None:
    model = tmp_path / "models--lab--small-1B" / "snapshots" / "abc"
    if name is None:
        model = tmp_path / "base"
    shutil.copytree(tiny_directory, model)
    base = load_model(model, torch.float64)
    decoder = make_decoder(base, tiny_id)
    saved = tmp_path / "decoder"
    decoder.save(saved)
    config = json.loads((saved / "adapter_config.json").read_text())
    assert hub_id(model) == config["base_model_name_or_path"] == name
    for file in saved.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file.name
    ids = torch.tensor([IDS])
    expected = decoder.model(input_ids=ids).logits
    assert not torch.equal(base(input_ids=ids).logits, expected)
    plain = PeftModel.from_pretrained(base, str(saved))
    assert torch.equal(plain(input_ids=ids).logits, expected)
