"""One prefill module serves decoders of its own kind and bridged ones, over sockets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx
import openai
import pytest
import torch
from peft import LoraConfig
from transformers import PreTrainedModel

from prefillshare.errors import IdentityError
from prefillshare.kv.cache import KVCache
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
from prefillshare.serving.decode import DecodeWorker
from prefillshare.serving.launcher import Cluster
from prefillshare.serving.messages import (
    BridgeOrder,
    DecodeRequest,
    PrefillReply,
    PrefillRequest,
)
from prefillshare.serving.prefill import PrefillWorker
from prefillshare.serving.router import Router
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


@pytest.fixture(scope="module")
def stage(
    tiny_directory: Path,
    tiny_model: PreTrainedModel,
    decoders: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Stage:
    folder = tmp_path_factory.mktemp("bridged")
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


@pytest.fixture(scope="module")
def running(stage: Stage) -> Iterator[Cluster]:
    with Cluster(stage.settings) as cluster:
        yield cluster


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


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: other.name)
def test_served_equals_in_process(
    stage: Stage, running: Cluster, tiny_model: PreTrainedModel, other: Other
) -> None:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none") as client:
        answer = client.chat.completions.create(
            model=other.name, messages=MESSAGES, max_tokens=LIMIT
        )
    text = expected(stage, tiny_model, other)
    assert len(text) > 3
    assert answer.choices[0].message.content == text


def test_one_prefill_serves_them_all_and_fewer_bytes_move(
    stage: Stage, running: Cluster
) -> None:
    form = stage.settings.kv_format
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none") as client:
        for i, name in enumerate(("shipping", "wide", "half", "words")):
            answer = client.chat.completions.create(
                model=name, messages=MESSAGES, max_tokens=2
            )
            usage = answer.usage
            assert usage is not None and usage.prompt_tokens_details is not None
            cached = usage.prompt_tokens_details.cached_tokens or 0
            # Blocks of the context and the request are there after the first of them.
            assert cached <= usage.prompt_tokens
            assert i == 0 or cached > 0.6 * usage.prompt_tokens
    stats = httpx.get(f"{running.url}/stats").json()
    for other in OTHERS:
        worker = stats["decoders"][other.name]
        moved, requests = worker["bytes_moved"], worker["requests"]
        assert moved / requests == bytes_of(stage, other, form)
    # Blocks held for a transfer are all given back, bridged ones too.
    prefill = stats["prefill"]
    held = stage.settings.prefill_blocks - prefill["free_blocks"]
    assert held == prefill["indexed_blocks"]
    assert prefill["bridged_blocks"] == 0


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


def test_a_foreign_order_is_refused_by_name(stage: Stage) -> None:
    worker = PrefillWorker(stage.settings)
    order = BridgeOrder(bridge="a" * 64, source_tokens=3, token_ids=[5, 6, 7])
    request = PrefillRequest(
        request_id="r",
        model_id=worker.engine.model_id.digest,
        token_ids=[5, 6, 7],
        bridge=order,
    )

    async def ask() -> None:
        with pytest.raises(IdentityError, match="names bridge aaaaaaaaaaaa"):
            await worker.prefill(request)
        known = order.model_copy(update={"bridge": next(iter(worker.outboxes))})
        short = request.model_copy(update={"bridge": known, "token_ids": [5, 6]})
        with pytest.raises(IdentityError, match="for 3 tokens, the cache covers 2"):
            await worker.prefill(short)

    try:
        anyio.run(ask)
        pool = worker.engine.pool
        assert pool.num_blocks - pool.free_blocks == len(worker.engine.index)
    finally:
        worker.close()


def test_a_decode_worker_wants_its_own_bridges_caches(stage: Stage) -> None:
    worker = DecodeWorker(stage.settings, "half")
    try:
        hand_off = worker.hand_off
        assert hand_off is not None
        assert set(worker.inboxes) == {worker.base_id, hand_off.made_id}
        own = BridgeOrder(bridge=hand_off.digest, source_tokens=3, token_ids=[5, 6, 7])
        offered = {"ticket": {}, "tokens": 3, "cached_tokens": 0, "kv_format": {}}
        for made_by, order, said in (
            # Of the module, with nobody to bridge it; bridged, and to be bridged again.
            (worker.base_id, None, "neither bridged nor to be bridged"),
            (hand_off.made_id, own, "neither bridged nor to be bridged"),
            (ModelId("c" * 64), None, "the offered cache is of cccccccccccc"),
        ):
            reply = PrefillReply(model_id=made_by.digest, **offered)
            request = DecodeRequest(
                request_id="r",
                token_ids=[5, 6, 7, 8],
                boundary=3,
                prefill=reply,
                bridge=order,
                max_tokens=1,
                stop_ids=[],
            )
            with pytest.raises(IdentityError, match=said):
                worker._prompt_cache(request)
        foreign = own.model_copy(update={"bridge": "a" * 64})
        with pytest.raises(IdentityError, match="the order names bridge aaaaaaaaaaaa"):
            hand_off.carry(KVCache(()), foreign)
    finally:
        worker.compute.close()


def test_a_router_is_told_the_decoders_own_model(stage: Stage) -> None:
    decoders = [
        d.model_copy(update={"model": stage.settings.model}) if d.name == "half" else d
        for d in stage.settings.decoders
    ]
    with pytest.raises(IdentityError, match="name the right model"):
        Router(stage.settings.model_copy(update={"decoders": decoders}))
