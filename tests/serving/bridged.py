"""Decoders of other models, on one prefill module, for the suites that serve them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from transformers import PreTrainedModel

from prefillshare.kv.identity import ModelId
from prefillshare.kv.layout import KVFormat
from prefillshare.models.bridge.prompt import lay_out_across
from prefillshare.models.bridge.spans import Alignment
from prefillshare.models.decoder import Decoder
from prefillshare.models.loading import load_model, load_tokenizer
from prefillshare.models.prefill import PrefillModule
from prefillshare.models.prompt import Boundary, Prompt, lay_out
from prefillshare.models.record import DecoderRecord, Prefill
from prefillshare.models.tiny import save_tiny_model, tiny_tokenizer
from prefillshare.serving.settings import DecoderSettings, ServeSettings
from tests.bridges import random_bridge
from tests.serving.service import LIMIT, MESSAGES, serve_settings
from tests.words import word_tokenizer

SUFFIX = "you pack"


@dataclass(frozen=True)
class Other:
    """A decoder of another model: `side` is where its caches are bridged."""

    name: str
    side: str
    layers: int
    hidden: int
    boundary: Boundary
    own_words: bool
    prefill: Prefill = "shared"


OTHERS = [  # The prefill module has 2 layers of 2 heads x 16.
    Other("wide", "decode", 3, 128, "suffix", own_words=False),
    Other("half", "prefill", 1, 64, "last_token", own_words=False),
    Other("words", "prefill", 2, 64, "last_token", own_words=True),
    Other("alone", "decode", 2, 96, "last_token", own_words=True, prefill="own"),
]


@dataclass(frozen=True)
class Stage:
    """The service's settings and what it was made of."""

    settings: ServeSettings
    models: dict[str, PreTrainedModel]


def make_stage(
    tiny_directory: Path,
    tiny_model: PreTrainedModel,
    decoders: dict[str, Path],
    folder: Path,
) -> Stage:
    """Decoders of other models beside one of the prefill module's own."""
    settings = serve_settings(tiny_directory, {"shipping": decoders["shipping"]})
    listed, models = list(settings.decoders), {}
    for other in OTHERS:
        home = save_model(folder / f"{other.name}-model", other)
        models[other.name] = load_model(home, torch.float64)
        decoder = make_bridged(other, tiny_directory, tiny_model, home)
        decoder.save(folder / other.name)
        entry = DecoderSettings(name=other.name, path=folder / other.name, model=home)
        listed.append(entry)
    return Stage(settings.model_copy(update={"decoders": listed}), models)


def save_model(directory: Path, other: Other) -> Path:
    save_tiny_model(
        directory,
        architecture="mistral",
        layers=other.layers,
        hidden=other.hidden,
        seed=5,
        window=24,
        dtype=torch.float64,
    )
    if other.own_words:
        word_tokenizer().save_pretrained(directory)
    return directory


def make_bridged(
    other: Other, base: Path, base_model: PreTrainedModel, home: Path
) -> Decoder:
    weights = load_model(home, torch.float64)
    record = DecoderRecord(
        other.name,
        ModelId.from_directory(base).digest,
        other.prefill,
        other.boundary,
        SUFFIX,
        weights_id=ModelId.from_directory(home).digest,
    )
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    bridge = None
    if other.prefill == "shared":
        count = weights.config.get_text_config().num_hidden_layers
        layers = tuple((i % 2, 1 - i % 2) for i in range(count))
        bridge = random_bridge(base_model, weights, layers)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        decoder = Decoder.create(weights, record, lora, bridge)
        for parameter in decoder.model.parameters():
            if parameter.requires_grad:
                parameter.data = 0.2 * torch.randn_like(parameter)
    return decoder


def prompt_of(stage: Stage, other: Other) -> Prompt:
    messages = [{"role": m["role"], "content": str(m["content"])} for m in MESSAGES]
    template = load_tokenizer(stage.settings.model)
    if not other.own_words:
        return lay_out(template, messages, SUFFIX, other.boundary)
    words = word_tokenizer()
    return lay_out_across(template, words, messages, SUFFIX, other.boundary)


def expected(stage: Stage, base: PreTrainedModel, other: Other) -> str:
    """The answer computed in this process, without blocks or sockets."""
    settings = stage.settings.decoder(other.name)
    assert settings.model is not None
    decoder = Decoder.load(
        settings.path,
        stage.models[other.name],
        ModelId.from_directory(stage.settings.model),
        weights_id=ModelId.from_directory(settings.model),
    )
    prompt = prompt_of(stage, other)
    own = prompt.token_ids[: prompt.boundary]
    if other.prefill == "own":
        cache = PrefillModule(decoder.model).prefill(own)
    else:
        source = prompt.source
        read = PrefillModule(base).prefill(source.token_ids if source else own)
        rows = Alignment.of(source.shares) if source else None
        cache = decoder.model.bridge.carry(read, own, rows)
    tokenizer = word_tokenizer() if other.own_words else tiny_tokenizer()
    stop = frozenset({int(tokenizer.eos_token_id)})
    ids = decoder.generate(cache, prompt.remainder, max_tokens=LIMIT, stop_ids=stop)
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


def bytes_of(stage: Stage, other: Other, form: KVFormat) -> int:
    """The smaller of both caches, in whole blocks."""
    if other.prefill == "own":
        return 0
    prompt = prompt_of(stage, other)
    read = len(prompt.source.token_ids) if prompt.source else prompt.boundary
    here = form.blocks(read) * 16 * 2 * 2 * 2 * 16 * 8
    there = form.blocks(prompt.boundary) * 16 * 2 * 2 * other.layers
    there *= other.hidden // 4 * 8
    assert (there < here) == (other.side == "prefill")
    return min(here, there)
