"""Which architectures are served: windows are, recurrent states are refused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
import torch
from transformers import PreTrainedModel

from prefillshare.errors import IdentityError, UnsupportedModelError
from prefillshare.kv.identity import ModelId
from prefillshare.kv.layout import KVFormat
from prefillshare.models.loading import load_model
from prefillshare.models.prefill import PrefillModule
from prefillshare.models.tiny import Architecture, save_tiny_model
from prefillshare.serving.decode import DecodeWorker
from prefillshare.serving.engine import PrefillEngine
from prefillshare.serving.host import Host
from prefillshare.serving.launcher import Cluster
from prefillshare.serving.messages import (
    DecodeEvent,
    DecodeRequest,
    PrefillReply,
    PrefillRequest,
)
from prefillshare.serving.prefill import PrefillWorker
from tests.architectures import HYBRID, SLIDING, TOKENS, WINDOW, assert_close, tiny
from tests.architectures import one_thread as one_thread
from tests.conftest import make_decoder
from tests.serving.service import serve_settings

pytestmark = pytest.mark.usefixtures("one_thread")
sliding = pytest.mark.parametrize("architecture", SLIDING)
hybrids = pytest.mark.parametrize("architecture", HYBRID)
FORM = KVFormat("float64", 8)


def engine_of(architecture: Architecture) -> PrefillEngine:
    module = PrefillModule(tiny(architecture).model)
    return PrefillEngine(module, tiny(architecture).model_id, FORM, 16)


@sliding
def test_blocks_outside_the_window_are_found_by_a_prompt_that_branches_off(
    architecture: Architecture,
) -> None:
    engine = engine_of(architecture)
    engine.prefill(TOKENS)
    branch = TOKENS[:18] + TOKENS[:18]
    second = engine.prefill(branch)
    assert second.cached_tokens == 16
    assert_close(engine.cache(second), engine.module.prefill(branch), 1e-10)


@pytest.fixture(params=SLIDING)
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    yield save_tiny_model(
        tmp_path / "model",
        architecture=request.param,
        dtype=torch.float64,
        window=WINDOW,
    )


def test_a_window_is_served_over_a_socket(
    directory: Path, tmp_path: Path, new_host: Callable[[], Host]
) -> None:
    model = load_model(directory, torch.float64)
    decoder = make_decoder(model, ModelId.from_directory(directory))
    decoder.save(tmp_path / "shipping")
    settings = serve_settings(directory, {"shipping": tmp_path / "shipping"})
    events: list[DecodeEvent | None] = []

    async def serve() -> None:
        prefiller = PrefillWorker(settings, new_host())
        worker = DecodeWorker(settings, "shipping", new_host())
        try:
            reply = await prefiller.prefill(
                PrefillRequest(
                    request_id="r",
                    model_id=prefiller.engine.model_id.digest,
                    token_ids=TOKENS[:-1],
                )
            )
            worker.decode(decode_request(reply), events.append, threading.Event())
        finally:
            prefiller.close()
            worker.close()

    anyio.run(serve)
    tokens = [e.token for e in events if e is not None and e.token is not None]
    cache = PrefillModule(model).prefill(TOKENS[:-1])
    expected = decoder.generate(cache, TOKENS[-1:], max_tokens=12, stop_ids=frozenset())
    assert tokens == list(expected)


def decode_request(reply: PrefillReply) -> DecodeRequest:
    return DecodeRequest(
        request_id="r",
        token_ids=TOKENS,
        boundary=len(TOKENS) - 1,
        prefill=reply,
        max_tokens=12,
        stop_ids=[],
    )


@hybrids
def test_a_recurrent_state_is_refused_before_anything_starts(
    architecture: Architecture, tmp_path: Path
) -> None:
    directory = save_tiny_model(tmp_path, architecture=architecture)
    cluster = Cluster(serve_settings(directory, {"shipping": tmp_path / "none"}))
    with pytest.raises(UnsupportedModelError, match="recurrent.*cannot be served"):
        cluster.__enter__()
    assert cluster.roles == []


def test_a_decoder_whose_model_is_not_named_is_refused_before_anything_starts(
    tiny_directory: Path,
    tiny_model: PreTrainedModel,
    tiny_id: ModelId,
    tmp_path: Path,
) -> None:
    decoder = make_decoder(tiny_model, tiny_id)
    decoder.record = replace(decoder.record, weights_id="b" * 64)
    decoder.save(tmp_path / "decoder")
    settings = serve_settings(tiny_directory, {"shipping": tmp_path / "decoder"})
    cluster = Cluster(settings)
    with pytest.raises(IdentityError, match="`model` in serving"):
        cluster.__enter__()
    assert cluster.roles == []


@hybrids
def test_an_engine_refuses_a_recurrent_state(architecture: Architecture) -> None:
    with pytest.raises(UnsupportedModelError, match="recurrent.*cannot be served"):
        engine_of(architecture)


def test_a_decode_worker_refuses_a_recurrent_state(tmp_path: Path) -> None:
    directory = save_tiny_model(tmp_path / "model", architecture="lfm2")
    model = load_model(directory, torch.float32)
    make_decoder(model, ModelId.from_directory(directory)).save(tmp_path / "shipping")
    settings = serve_settings(directory, {"shipping": tmp_path / "shipping"})
    with pytest.raises(UnsupportedModelError, match="recurrent.*cannot be served"):
        DecodeWorker(settings, "shipping", None)
