"""The prefill worker: computes caches and exports them for transfer."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from prefillshare.errors import IdentityError
from prefillshare.kv.identity import ModelId
from prefillshare.models.loading import load_model
from prefillshare.models.prefill import PrefillModule
from prefillshare.serving.engine import PrefillEngine
from prefillshare.serving.messages import BridgeOrder, PrefillReply, PrefillRequest
from prefillshare.serving.outbox import Held, Outbox, outboxes_of
from prefillshare.serving.settings import ServeSettings
from prefillshare.serving.worker import ComputeThread, worker_app
from prefillshare.transfer.tickets.tcp import TcpExporter


class PrefillWorker:
    """Owns the engine, its thread and the exporter."""

    def __init__(self, settings: ServeSettings) -> None:
        self.form = settings.kv_format
        model = load_model(settings.model, self.form.torch_dtype)
        module = PrefillModule(model, chunk_tokens=settings.chunk_tokens)
        model_id = ModelId.from_directory(settings.model)
        self.engine = PrefillEngine(
            module, model_id, self.form, settings.prefill_blocks
        )
        self.outboxes = outboxes_of(settings, model_id)
        self.compute = ComputeThread(settings.threads)
        # A fetch waits while its decode worker answers earlier requests.
        self.exporter = TcpExporter(
            settings.host, lease_seconds=settings.request_timeout
        )

    async def prefill(self, request: PrefillRequest) -> PrefillReply:
        """Prefill and export; the blocks are held until they were fetched."""
        self.engine.model_id.require(ModelId(request.model_id), "the request")
        held = await self.compute.run(lambda: self._hold(request))

        def release() -> None:
            # Called on a transfer thread; the blocks belong to the compute thread.
            self.compute.submit(held.release)

        try:
            size = self.form.slice_bytes(held.layout)
            ticket = self.exporter.export(held.buffers, release, size)
        except BaseException:
            release()
            raise
        return PrefillReply(
            ticket=ticket.to_dict(),
            tokens=held.tokens,
            cached_tokens=held.cached_tokens,
            model_id=held.model_id.digest,
            kv_format=self.form.to_dict(),
        )

    def _hold(self, request: PrefillRequest) -> Held:
        outbox = None if request.bridge is None else self._outbox(request.bridge)
        prefilled = self.engine.prefill(request.token_ids, request.tenant)
        if outbox is None or request.bridge is None:
            return Held(
                [self.engine.pool.buffer(block) for block in prefilled.blocks],
                self.engine.module.layout,
                self.engine.model_id,
                prefilled.tokens,
                prefilled.cached_tokens,
                lambda: self.engine.release(prefilled),
            )
        try:
            cache = self.engine.cache(prefilled)
        finally:
            self.engine.release(prefilled)
        return outbox.hold(cache, request.bridge, prefilled.cached_tokens)

    def _outbox(self, order: BridgeOrder) -> Outbox:
        """Of the bridge that is asked for, before anything is computed."""
        outbox = self.outboxes.get(order.bridge)
        if outbox is None:
            raise IdentityError(
                f"the request names bridge {order.bridge[:12]}, which this prefill "
                "worker does not have; start it with the decoders that the router has"
            )
        return outbox

    def stats(self) -> dict[str, Any]:
        """Counters, and how much of the pool is free."""
        pool = self.engine.pool
        return {
            **vars(self.engine.counters),
            "free_blocks": pool.free_blocks,
            "indexed_blocks": len(self.engine.index),
            "bridged_blocks": sum(x.held_blocks for x in self.outboxes.values()),
            "bytes_sent": self.exporter.bytes_sent,
        }

    def close(self) -> None:
        """End transfers first: their releases are queued on the compute thread."""
        self.exporter.close()
        self.compute.close()


def prefill_app(settings: ServeSettings) -> FastAPI:
    """The worker's HTTP interface."""
    worker = PrefillWorker(settings)
    app = worker_app(worker.close)

    @app.post("/prefill")
    async def prefill(request: PrefillRequest) -> PrefillReply:
        return await worker.prefill(request)

    @app.delete("/transfers/{transfer_id}")
    async def cancel(transfer_id: str) -> dict[str, str]:
        worker.exporter.cancel(transfer_id)
        return {"status": "cancelled"}

    @app.get("/stats")
    async def stats() -> dict[str, Any]:
        return await worker.compute.run(worker.stats)

    return app
