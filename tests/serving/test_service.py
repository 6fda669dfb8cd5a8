"""The running service: real processes, sockets and the openai client."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

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
from prefillshare.serving.settings import DecoderSettings, ServeSettings
from tests.conftest import make_decoder

CONTEXT = "order 417: item lamp, town Lyon, quantity 3, price 12. " * 4
MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": CONTEXT},
    {"role": "user", "content": "Process order 417."},
]
SUFFIXES = {"shipping": "you ship", "invoicing": "you bill", "alone": "you check"}
LIMIT = 24
ONE = b'{"model": "shipping", "messages": [{"role": "user", "content": "x"}], %s}'


@pytest.fixture(scope="module")
def decoders(
    tiny_model: PreTrainedModel,
    tiny_id: ModelId,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Two decoders on the shared prefill (one per boundary) and one on its own."""
    folder = tmp_path_factory.mktemp("decoders")
    made = {
        "shipping": make_decoder(tiny_model, tiny_id, suffix="you ship", seed=1),
        "invoicing": make_decoder(
            tiny_model, tiny_id, suffix="you bill", seed=2, boundary="suffix"
        ),
        "alone": make_decoder(
            tiny_model, tiny_id, suffix="you check", seed=3, prefill="own"
        ),
    }
    for name, decoder in made.items():
        decoder.save(folder / name)
    return {name: folder / name for name in made}


def serve_settings(directory: Path, decoders: dict[str, Path]) -> ServeSettings:
    return ServeSettings(
        model=directory,
        decoders=[DecoderSettings(name=n, path=p) for n, p in decoders.items()],
        port=0,
        dtype="float64",
        threads=1,
    )


@pytest.fixture(scope="module")
def cluster(tiny_directory: Path, decoders: dict[str, Path]) -> Iterator[Cluster]:
    with Cluster(serve_settings(tiny_directory, decoders)) as running:
        yield running


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none") as client:
        yield client


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
    def stats() -> dict[str, dict[str, dict[str, int]]]:
        figures: dict[str, dict[str, dict[str, int]]] = httpx.get(
            f"{cluster.url}/stats", trust_env=False
        ).json()
        return figures

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
        for key in ("bytes_moved", "computed_tokens")
    }
    assert shipping["computed_tokens"] == 1
    assert shipping["bytes_moved"] == form.blocks(prompt - 1) * form.bytes_per_block(
        layout
    )


def test_a_client_that_leaves_frees_everything(
    client: openai.OpenAI, cluster: Cluster, decoders: dict[str, Path]
) -> None:
    stream = client.chat.completions.create(
        model="shipping", messages=MESSAGES, max_tokens=2000, stream=True
    )
    assert next(iter(stream)).choices
    stream.close()
    # The decode worker takes one request at a time: an answer means that it let go.
    client.chat.completions.create(model="shipping", messages=MESSAGES, max_tokens=1)
    stats = httpx.get(f"{cluster.url}/stats", trust_env=False).json()["prefill"]
    total = serve_settings(Path(), decoders).prefill_blocks
    assert stats["free_blocks"] + stats["indexed_blocks"] == total


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
        (ONE % b'"logit_bias": {}', "logit_bias"),
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
    for role in cluster.roles[:-1]:
        response = httpx.get(f"{role.url}/stats", trust_env=False)
        assert response.status_code == 401


def test_a_dead_prefill_worker_is_an_error_and_nothing_is_left_behind(
    tiny_directory: Path, decoders: dict[str, Path]
) -> None:
    chosen = {name: decoders[name] for name in ("shipping", "alone")}
    with Cluster(serve_settings(tiny_directory, chosen)) as running:
        prefill = next(r for r in running.roles if r.name == "prefill worker")
        os.killpg(prefill.process.pid, signal.SIGKILL)
        prefill.process.wait(10)
        with openai.OpenAI(
            base_url=f"{running.url}/v1", api_key="none", max_retries=0
        ) as client:
            with pytest.raises(openai.InternalServerError, match="prefill worker"):
                client.chat.completions.create(model="shipping", messages=MESSAGES)
            # What does not need it goes on.
            answer = client.chat.completions.create(
                model="alone", messages=MESSAGES, max_tokens=2
            )
            assert answer.usage is not None
        assert any("prefill worker" in sentence for sentence in running.check())
        ports = [role.url for role in running.roles]
    assert all(role.process.poll() is not None for role in running.roles)
    for url in ports:
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health", trust_env=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_serve_all_ends_with_all_its_processes(
    tiny_directory: Path,
    decoders: dict[str, Path],
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    """SIGKILL too: workers notice that their launcher is gone."""
    config = tmp_path / "serve.yaml"
    chosen = {"shipping": decoders["shipping"]}
    config.write_text(serve_settings(tiny_directory, chosen).model_dump_json())
    process = subprocess.Popen(
        [sys.executable, "-m", "prefillshare", "serve", "all", "--config", str(config)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    with process.stdout:
        line = process.stdout.readline()
        assert "serving shipping at http://127.0.0.1:" in line
        children = children_of(process.pid)
        assert len(children) == 3
        process.send_signal(number)
        status = process.wait(30)
    assert status == (0 if number != signal.SIGKILL else -signal.SIGKILL)
    deadline = time.monotonic() + 30
    while any(is_running(pid) for pid in children):
        assert time.monotonic() < deadline, "a worker outlived its launcher"
        os.sched_yield()
    if number != signal.SIGKILL:
        assert [p.name for p in tmp_path.iterdir()] == ["serve.yaml"]


def children_of(pid: int) -> list[int]:
    return [
        int(child)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ]


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"
