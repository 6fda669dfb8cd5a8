"""The decode worker: pulls a prompt's cache and generates from it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from prefillshare.errors import IdentityError, PrefillShareError
from prefillshare.kv.cache import KVCache
from prefillshare.kv.identity import ModelId
from prefillshare.models.decoder import Decoder
from prefillshare.models.loading import embeddings_of, load_model, model_layout
from prefillshare.models.prefill import PrefillModule
from prefillshare.models.record import DecoderRecord
from prefillshare.serving.bridging import HandOff, hand_off_of, weights_of
from prefillshare.serving.engine import PrefillEngine
from prefillshare.serving.host import Host
from prefillshare.serving.inbox import Inbox
from prefillshare.serving.messages import (
    DecodeEvent,
    DecodeFigures,
    DecodeRequest,
    PrefillReply,
)
from prefillshare.serving.settings import DecoderSettings, ServeSettings
from prefillshare.serving.worker import ComputeThread, worker_app

Emit = Callable[[DecodeEvent | None], None]


class DecodeWorker:
    """One decoder. Requests are decoded one after the other.

    The host, which only a decoder on a shared prefill needs, is its own from here on.
    """

    def __init__(self, settings: ServeSettings, name: str, host: Host | None) -> None:
        self.host = host
        self.settings, self.form = settings, settings.kv_format
        self.base_id = ModelId.from_directory(settings.model)
        self.decoder, self.hand_off = self._load(settings.decoder(name))
        self.compute = ComputeThread(settings.threads)
        self.own: PrefillEngine | None = None
        self.inboxes: dict[ModelId, Inbox] = {}
        if self.decoder.record.prefill == "own":
            self.own = self._own_engine()
        else:
            assert host is not None, "caches are pulled through it"
            self.inboxes = self._make_inboxes(host)
        self.totals: dict[str, float] = {
            "requests": 0,
            "computed_tokens": 0,
            "generated_tokens": 0,
            "bytes_moved": 0,
            "bytes_sealed": 0,
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
            computed_tokens=computed, cached_tokens=prefilled.cached_tokens
        )

    def _fetch(
        self, request: DecodeRequest, reply: PrefillReply, rest: int
    ) -> tuple[KVCache, DecodeFigures]:
        cache, stats = self._inbox(reply).fetch(reply, self._expected(request, reply))
        if request.bridge is not None:
            assert self.hand_off is not None, "only its decoders are sent an order"
            cache = self.hand_off.carry(cache, request.bridge)
        return cache, DecodeFigures(
            computed_tokens=rest,
            cached_tokens=reply.cached_tokens,
            bytes_moved=stats.bytes,
            bytes_sealed=stats.bytes if stats.sealed else 0,
            transfer_seconds=stats.seconds,
        )

    def _inbox(self, reply: PrefillReply) -> Inbox:
        """For caches of the offered identity; `IdentityError` if none is read here."""
        inbox = self.inboxes.get(ModelId(reply.model_id))
        if inbox is None:
            known = " or ".join(model_id.short for model_id in self.inboxes)
            raise IdentityError(
                f"the offered cache is of {reply.model_id[:12]}, this decoder reads "
                f"those of {known}; start the workers with the same models and decoders"
            )
        return inbox

    def _expected(self, request: DecodeRequest, reply: PrefillReply) -> int:
        """Tokens of the offered cache: the decoder's, if not to be bridged here."""
        as_it_comes = reply.model_id == self.base_id.digest
        if (request.bridge is not None) != (as_it_comes and self.hand_off is not None):
            raise IdentityError(
                "the offered cache is neither bridged nor to be bridged here, or both; "
                "start the router and the workers with the same decoders"
            )
        return request.bridge.source_tokens if request.bridge else request.boundary

    def _make_inboxes(self, host: Host) -> dict[ModelId, Inbox]:
        """One for caches as the prefill module makes them, one for bridged ones."""
        layouts = {self.base_id: model_layout(self.settings.model)}
        if self.hand_off is not None:
            layouts[self.hand_off.made_id] = self.hand_off.layout
        for layout in layouts.values():
            layout.require_blocks()
        timeout, blocks = self.settings.transfer_timeout, self.settings.decode_blocks
        return {
            model_id: Inbox(layout, self.form, blocks, host, timeout)
            for model_id, layout in layouts.items()
        }

    def _load(self, decoder: DecoderSettings) -> tuple[Decoder, HandOff | None]:
        """The decoder over the weights that it started from, and its bridge."""
        model_layout(decoder.model or self.settings.model).require_blocks()
        weights_id = weights_of(decoder, DecoderRecord.load(decoder.path))
        weights = load_model(
            decoder.model or self.settings.model, self.form.torch_dtype
        )
        table = embeddings_of(weights)
        hand_off = hand_off_of(decoder, self.base_id, self.form, table)
        loaded = Decoder.load(
            decoder.path, weights, self.base_id, weights_id=weights_id
        )
        return loaded, hand_off

    def _own_engine(self) -> PrefillEngine:
        module = PrefillModule(
            self.decoder.model, chunk_tokens=self.settings.chunk_tokens
        )
        return PrefillEngine(
            module, self.base_id, self.form, self.settings.prefill_blocks
        )

    def _count(self, figures: DecodeFigures) -> None:
        self.totals["requests"] += 1
        for name, value in figures.model_dump().items():
            if name in self.totals:
                self.totals[name] += value

    def close(self) -> None:
        """Finish what is queued and give the host's memory back."""
        self.compute.close()
        if self.host is not None:
            self.host.close()


def decode_app(settings: ServeSettings, name: str) -> FastAPI:
    """The worker's HTTP interface."""
    record = DecoderRecord.load(settings.decoder(name).path)
    host = Host(settings.agent) if record.prefill == "shared" else None
    worker = DecodeWorker(settings, name, host)
    app = worker_app(worker.close)

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
