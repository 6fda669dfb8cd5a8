"""Both workers in this process, with a real socket between them: ids and bytes."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
import torch
from transformers import PreTrainedModel

from prefillshare.errors import IdentityError
from prefillshare.kv.identity import ModelId
from prefillshare.models.prefill import PrefillModule
from prefillshare.serving.decode import DecodeWorker
from prefillshare.serving.host import Host
from prefillshare.serving.messages import (
    DecodeEvent,
    DecodeRequest,
    PrefillReply,
    PrefillRequest,
)
from prefillshare.serving.prefill import PrefillWorker
from tests.conftest import make_decoder
from tests.serving.service import serve_settings

IDS = list(range(10, 110))


NewHost = Callable[[], Host]


@asynccontextmanager
async def prefilled(
    directory: Path, decoders: dict[str, Path], new_host: NewHost
) -> AsyncIterator[tuple[PrefillWorker, PrefillReply]]:
    worker = PrefillWorker(serve_settings(directory, decoders), new_host())
    try:
        request = PrefillRequest(
            request_id="r", model_id=worker.engine.model_id.digest, token_ids=IDS[:-1]
        )
        yield worker, await worker.prefill(request)
    finally:
        worker.close()


@pytest.fixture
def decode_worker(
    tiny_directory: Path, decoders: dict[str, Path], new_host: NewHost
) -> Iterator[DecodeWorker]:
    settings = serve_settings(tiny_directory, decoders)
    worker = DecodeWorker(settings, "shipping", new_host())
    yield worker
    worker.close()
    for inbox in worker.inboxes.values():
        pool = inbox.staging.pool
        pool.check_integrity()
        assert pool.free_blocks == pool.num_blocks


def decode_request(reply: PrefillReply) -> DecodeRequest:
    return DecodeRequest(
        request_id="r",
        token_ids=IDS,
        boundary=len(IDS) - 1,
        prefill=reply,
        max_tokens=12,
        stop_ids=[],
    )


def test_ids_equal_and_only_the_boundary_token_is_computed(
    tiny_directory: Path,
    decoders: dict[str, Path],
    decode_worker: DecodeWorker,
    new_host: NewHost,
    tiny_model: PreTrainedModel,
) -> None:
    widths: list[int] = []
    decode_worker.decoder.model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["input_ids"].shape[1]),
        with_kwargs=True,
    )
    events: list[DecodeEvent | None] = []

    async def serve() -> None:
        async with prefilled(tiny_directory, decoders, new_host) as (_, reply):
            request = decode_request(reply)
            decode_worker.decode(request, events.append, threading.Event())

    anyio.run(serve)
    tokens = [e.token for e in events if e is not None and e.token is not None]
    cache = PrefillModule(tiny_model).prefill(IDS[:-1])
    expected = decode_worker.decoder.generate(
        cache, IDS[-1:], max_tokens=12, stop_ids=frozenset()
    )
    assert widths == [1] * 12
    assert tokens == list(expected)
    assert events[-1] is None


def test_the_cache_arrives_byte_for_byte(
    tiny_directory: Path,
    decoders: dict[str, Path],
    decode_worker: DecodeWorker,
    new_host: NewHost,
) -> None:
    async def serve() -> None:
        async with prefilled(tiny_directory, decoders, new_host) as (prefiller, reply):
            # The same computation once more: bit-equal, being of the same shapes.
            sent = prefiller.engine.module.prefill(IDS[:-1])
            received, figures = decode_worker._prompt_cache(decode_request(reply))
            for mine, theirs in zip(sent.layers, received.layers, strict=True):
                assert torch.equal(mine[0], theirs[0])
                assert torch.equal(mine[1], theirs[1])
            # So the first logits are those of a decoder beside the prefill module.
            step = decode_worker.decoder._step
            local = step(IDS[-1:], sent.to_transformers())
            assert torch.equal(step(IDS[-1:], received.to_transformers()), local)
            form = prefiller.engine.form
            size = form.bytes_per_block(prefiller.engine.module.layout)
            assert figures.bytes_moved == form.blocks(len(IDS) - 1) * size

    anyio.run(serve)


@pytest.mark.parametrize(
    "change",
    [
        {"model_id": "0" * 64},
        {"tokens": 98},
        {"kv_format": {"dtype": "float32", "block_tokens": 16, "encoding": "raw"}},
        {"blocks": 6},
        {"bytes_per_block": 8},
    ],
)
def test_a_foreign_cache_is_refused_by_name(
    tiny_directory: Path,
    decoders: dict[str, Path],
    decode_worker: DecodeWorker,
    new_host: NewHost,
    change: dict[str, object],
) -> None:
    async def serve() -> None:
        async with prefilled(tiny_directory, decoders, new_host) as (_, reply):
            request = decode_request(reply.model_copy(update=change))
            with pytest.raises(IdentityError, match="offered cache"):
                decode_worker._prompt_cache(request)

    anyio.run(serve)


def test_a_decoder_of_another_module_does_not_start(
    tiny_directory: Path, tiny_model: PreTrainedModel, tmp_path: Path
) -> None:
    foreign = ModelId("f" * 64)
    make_decoder(tiny_model, foreign).save(tmp_path / "foreign")
    settings = serve_settings(tiny_directory, {"foreign": tmp_path / "foreign"})
    with pytest.raises(IdentityError, match="ffffffffffff"):
        DecodeWorker(settings, "foreign", None)
