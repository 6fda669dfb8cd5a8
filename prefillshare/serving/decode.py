"""The decode worker: fetches a prompt's cache and generates from it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from prefillshare.errors import CapacityError, IdentityError, PrefillShareError
from prefillshare.kv.blocks import BlockPool
from prefillshare.kv.cache import KVCache, read_blocks
from prefillshare.kv.identity import ModelId
from prefillshare.kv.layout import KVLayout
from prefillshare.models.decoder import Decoder
from prefillshare.models.loading import load_model
from prefillshare.models.prefill import PrefillModule
from prefillshare.models.record import DecoderRecord
from prefillshare.serving.engine import PrefillEngine
from prefillshare.serving.messages import (
    DecodeEvent,
    DecodeFigures,
    DecodeRequest,
    PrefillReply,
)
from prefillshare.serving.settings import ServeSettings
from prefillshare.serving.worker import ComputeThread, worker_app
from prefillshare.transfer.base import Ticket
from prefillshare.transfer.tcp import TcpImporter

Emit = Callable[[DecodeEvent | None], None]


class DecodeWorker:
    """One decoder. Requests are decoded one after the other."""

    def __init__(self, settings: ServeSettings, name: str) -> None:
        self.settings, self.form = settings, settings.kv_format
        base = load_model(settings.model, self.form.torch_dtype)
        self.base_id = ModelId.from_directory(settings.model)
        path = settings.decoder(name).path
        DecoderRecord.load(path).require_servable()
        self.decoder = Decoder.load(path, base, self.base_id)
        self.layout = KVLayout.from_config(base.config)
        self.layout.require_blocks()
        self.compute = ComputeThread(settings.threads)
        self.importer = TcpImporter()
        self.own: PrefillEngine | None = None
        if self.decoder.record.prefill == "own":
            self.own = self._own_engine()
        else:
            block_bytes = self.form.bytes_per_block(self.layout)
            self.pool = BlockPool(settings.decode_blocks, block_bytes)
        self.totals: dict[str, float] = {
            "requests": 0,
            "computed_tokens": 0,
            "generated_tokens": 0,
            "bytes_moved": 0,
            "transfer_seconds": 0.0,
        }

    def decode(
        self, request: DecodeRequest, emit: Emit, cancelled: threading.Event
    ) -> None:
        """Emit every token, then the figures or an error, then None."""
        try:
            if not cancelled.is_set():
                self._decode(request, emit, cancelled)
        except PrefillShareError as error:
            emit(DecodeEvent(error=str(error)))
        except Exception as error:
            emit(DecodeEvent(error=f"the decode worker failed: {error!r}"))
            raise
        finally:
            emit(None)

    def _decode(
        self, request: DecodeRequest, emit: Emit, cancelled: threading.Event
    ) -> None:
        cache, figures = self._prompt_cache(request)
        self._count(figures)
        tokens = self.decoder.generate(
            cache,
            request.token_ids[request.boundary :],
            max_tokens=request.max_tokens,
            stop_ids=frozenset(request.stop_ids),
            temperature=request.temperature,
            seed=request.seed,
        )
        for token in tokens:
            if cancelled.is_set():
                return
            self.totals["generated_tokens"] += 1
            emit(DecodeEvent(token=token))
        emit(DecodeEvent(done=figures))

    def _prompt_cache(self, request: DecodeRequest) -> tuple[KVCache, DecodeFigures]:
        rest = len(request.token_ids) - request.boundary
        if request.prefill is not None:
            self.decoder.record.require_prefill("shared")
            return self._fetch(request, request.prefill, rest)
        self.decoder.record.require_prefill("own")
        assert self.own is not None
        prefilled = self.own.prefill(request.token_ids[: request.boundary])
        cache = self.own.cache(prefilled)
        self.own.release(prefilled)
        computed = prefilled.tokens - prefilled.cached_tokens + rest
        return cache, DecodeFigures(
            computed_tokens=computed,
            cached_tokens=prefilled.cached_tokens,
            bytes_moved=0,
            transfer_seconds=0.0,
        )

    def _fetch(
        self, request: DecodeRequest, reply: PrefillReply, rest: int
    ) -> tuple[KVCache, DecodeFigures]:
        self.base_id.require(ModelId(reply.model_id), "the offered cache")
        if reply.kv_format != self.form.to_dict():
            raise IdentityError(
                f"the offered cache has format {reply.kv_format}, this worker reads "
                f"{self.form.to_dict()}; start both with the same dtype and block size"
            )
        if reply.tokens != request.boundary:
            raise IdentityError(
                f"the offered cache covers {reply.tokens} tokens, but the boundary is "
                f"at {request.boundary}"
            )
        blocks = self._allocate(self.form.blocks(reply.tokens))
        try:
            stats = self.importer.fetch(
                Ticket.from_dict(reply.ticket),
                [self.pool.buffer(block) for block in blocks],
                self.settings.transfer_timeout,
            )
            views = [self.pool.view(block) for block in blocks]
            cache = read_blocks(views, reply.tokens, self.layout, self.form)
        finally:
            self.pool.free(blocks)
        return cache, DecodeFigures(
            computed_tokens=rest,
            cached_tokens=reply.cached_tokens,
            bytes_moved=stats.bytes,
            transfer_seconds=stats.seconds,
        )

    def _allocate(self, wanted: int) -> list[int]:
        if not self.pool.can_allocate(wanted):
            raise CapacityError(
                f"the prompt needs {wanted} KV blocks, this decode worker has "
                f"{self.pool.free_blocks}; raise decode_blocks"
            )
        return self.pool.allocate(wanted)

    def _own_engine(self) -> PrefillEngine:
        module = PrefillModule(
            self.decoder.model, chunk_tokens=self.settings.chunk_tokens
        )
        return PrefillEngine(
            module, self.base_id, self.form, self.settings.prefill_blocks
        )

    def _count(self, figures: DecodeFigures) -> None:
        self.totals["requests"] += 1
        self.totals["computed_tokens"] += figures.computed_tokens
        self.totals["bytes_moved"] += figures.bytes_moved
        self.totals["transfer_seconds"] += figures.transfer_seconds


def decode_app(settings: ServeSettings, name: str) -> FastAPI:
    """The worker's HTTP interface."""
    worker = DecodeWorker(settings, name)
    app = worker_app(worker.compute.close)

    @app.post("/decode")
    async def decode(request: DecodeRequest) -> StreamingResponse:
        return StreamingResponse(
            _lines(worker, request), media_type="application/x-ndjson"
        )

    @app.get("/stats")
    async def stats() -> dict[str, Any]:
        return await worker.compute.run(lambda: dict(worker.totals))

    return app


async def _lines(worker: DecodeWorker, request: DecodeRequest) -> AsyncIterator[str]:
    """Events as JSON lines; a client that leaves stops the decoding."""
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[DecodeEvent | None] = asyncio.Queue()
    cancelled = threading.Event()

    def emit(event: DecodeEvent | None) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    worker.compute.submit(lambda: worker.decode(request, emit, cancelled))
    try:
        while (event := await events.get()) is not None:
            yield event.model_dump_json(exclude_none=True) + "\n"
    finally:
        cancelled.set()
