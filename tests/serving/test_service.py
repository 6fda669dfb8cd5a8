"""The running service: real processes, sockets and the openai client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from transformers import PreTrainedModel

from prefillshare.kv.identity import ModelId
from prefillshare.kv.layout import KVFormat, KVLayout
from prefillshare.models.decoder import Decoder
from prefillshare.models.loading import load_tokenizer
from prefillshare.models.prefill import PrefillModule
from prefillshare.models.prompt import lay_out
from prefillshare.serving.launcher import Cluster
from tests.serving.service import (
    LIMIT,
    MESSAGES,
    ONE,
    SUFFIXES,
    serve_settings,
    unheld,
)
from tests.transfer.pairs import until


def expected_text(
    name: str, directory: Path, path: Path, model: PreTrainedModel, model_id: ModelId
) -> str:
    """The answer computed in this process, without blocks or sockets."""
    tokenizer = load_tokenizer(directory)
    decoder = Decoder.load(path, model, model_id)
    prompt = lay_out(
        tokenizer,
        [{"role": m["role"], "content": str(m["content"])} for m in MESSAGES],
        SUFFIXES[name],
        decoder.record.boundary,
    )
    prefiller = model if decoder.record.prefill == "shared" else decoder.model
    cache = PrefillModule(prefiller).prefill(prompt.token_ids[: prompt.boundary])
    stop = frozenset({tokenizer.eos_token_id})
    ids = decoder.generate(cache, prompt.remainder, max_tokens=LIMIT, stop_ids=stop)
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


@pytest.mark.parametrize("name", ["shipping", "invoicing", "alone"])
def test_served_equals_in_process(
    client: openai.OpenAI,
    tiny_directory: Path,
    decoders: dict[str, Path],
    tiny_model: PreTrainedModel,
    tiny_id: ModelId,
    name: str,
) -> None:
    answer = client.chat.completions.create(
        model=name, messages=MESSAGES, max_tokens=LIMIT
    )
    text = expected_text(name, tiny_directory, decoders[name], tiny_model, tiny_id)
    assert answer.choices[0].message.content == text
    stream = client.chat.completions.create(
        model=name, messages=MESSAGES, max_tokens=LIMIT, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == text
    assert len(pieces) > 3


def test_counts_of_cached_computed_and_moved(
    client: openai.OpenAI, cluster: Cluster, tiny_model: PreTrainedModel
) -> None:
    def stats() -> Any:
        return httpx.get(f"{cluster.url}/stats", trust_env=False).json()

    fresh: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "something new " * 20},
        {"role": "user", "content": "go"},
    ]
    before = stats()
    usages = []
    for name in ("shipping", "invoicing"):
        stream = client.chat.completions.create(
            model=name,
            messages=fresh,
            max_tokens=2,
            stream=True,
            stream_options={"include_usage": True},
        )
        usage = list(stream)[-1].usage
        assert usage is not None and usage.prompt_tokens_details is not None
        usages.append((usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens))
    after = stats()
    (prompt, cold), (_, warm) = usages
    assert cold is not None and warm is not None
    # "<|system|>" is common to all prompts but fills no block of 16 alone.
    assert cold == 0
    assert warm >= 16 * (280 // 16)
    form = KVFormat("float64", 16)
    layout = KVLayout.from_config(tiny_model.config)
    shipping = {
        key: after["decoders"]["shipping"][key] - before["decoders"]["shipping"][key]
        for key in ("bytes_moved", "bytes_sealed", "computed_tokens")
    }
    assert shipping["computed_tokens"] == 1
    # Within one site there are checksums alone.
    assert shipping["bytes_sealed"] == 0
    assert shipping["bytes_moved"] == form.blocks(prompt - 1) * form.bytes_per_block(
        layout
    )


LONG = 2000


@pytest.mark.parametrize("streaming", [True, False])
def test_a_client_that_leaves_frees_everything(
    client: openai.OpenAI,
    cluster: Cluster,
    decoders: dict[str, Path],
    streaming: bool,
) -> None:
    def stats() -> Any:
        return httpx.get(f"{cluster.url}/stats", trust_env=False).json()

    def generated() -> int:
        return int(stats()["decoders"]["shipping"]["generated_tokens"])

    before = generated()
    if streaming:
        stream = client.chat.completions.create(
            model="shipping", messages=MESSAGES, max_tokens=LONG, stream=True
        )
        assert next(iter(stream)).choices
        stream.close()
    else:
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.3, max_retries=0).chat.completions.create(
                model="shipping", messages=MESSAGES, max_tokens=LONG
            )
    # The decode worker takes one request at a time: an answer means that it let go.
    client.chat.completions.create(model="shipping", messages=MESSAGES, max_tokens=1)
    assert generated() - before < LONG
    total = serve_settings(Path(), decoders).prefill_blocks
    # The lender hears of a transfer's end after the reader.
    until(lambda: unheld(stats()["prefill"]) == total)


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert {m.id for m in client.models.list()} == {"shipping", "invoicing", "alone"}


def test_an_unknown_model_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="'nobody'.*shipping") as caught:
        client.chat.completions.create(model="nobody", messages=MESSAGES)
    assert caught.value.code == "model_not_found"


def test_a_prompt_beyond_the_context_is_named(client: openai.OpenAI) -> None:
    long: list[ChatCompletionMessageParam] = [{"role": "user", "content": "x" * 5000}]
    with pytest.raises(openai.BadRequestError, match="context is 4096") as caught:
        client.chat.completions.create(model="shipping", messages=long)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{not json", "JSON"),
        (b'{"model": "shipping"}', "messages"),
        (b'{"model": "shipping", "messages": []}', "messages"),
        (ONE % b'"max_tokens": 0', "max_tokens"),
        (ONE % b'"logit_bias": {}', "logit_bias is not supported here"),
    ],
)
def test_bad_bodies_get_openais_error(
    cluster: Cluster, body: bytes, message: str
) -> None:
    response = httpx.post(
        f"{cluster.url}/v1/chat/completions",
        content=body,
        headers={"content-type": "application/json"},
        trust_env=False,
    )
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert message in error["message"]


def test_workers_refuse_callers_without_the_token(cluster: Cluster) -> None:
    workers = [role for role in cluster.roles if "worker" in role.name]
    assert len(workers) == 4
    for role in workers:
        response = httpx.get(f"{role.url}/stats", trust_env=False)
        assert response.status_code == 401
