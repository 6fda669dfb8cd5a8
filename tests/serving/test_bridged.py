"""One prefill module serves decoders of its own kind and bridged ones, over sockets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import openai
import pytest
from transformers import PreTrainedModel

from prefillshare.errors import CapacityError
from prefillshare.serving.launcher import Cluster
from prefillshare.transfer.agent.client import AgentEngine
from tests.serving.bridged import OTHERS, Other, Stage, bytes_of, expected
from tests.serving.service import LIMIT, MESSAGES, unheld
from tests.transfer.pairs import until


@pytest.fixture(scope="module")
def running(stage: Stage) -> Iterator[Cluster]:
    with Cluster(stage.settings) as cluster:
        yield cluster


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
    def given_back() -> bool:
        prefill = httpx.get(f"{running.url}/stats").json()["prefill"]
        everything = unheld(prefill) == stage.settings.prefill_blocks
        return everything and prefill["bridged_blocks"] == 0

    until(given_back)


def test_the_arena_is_what_the_workers_need(running: Cluster) -> None:
    with closing(AgentEngine(str(Path(running._folder.name) / "agent.sock"))) as engine:
        with pytest.raises(CapacityError, match=r"\(0 of \d+ are in all\)"):
            engine.allocate(1)
