"""The prefill worker: computes caches and exports them for transfer."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from prefillshare.kv.identity import ModelId
from prefillshare.models.loading import load_model
from prefillshare.models.prefill import PrefillModule
from prefillshare.serving.engine import Prefilled, PrefillEngine
from prefillshare.serving.messages import PrefillReply, PrefillRequest
from prefillshare.serving.settings import ServeSettings
from prefillshare.serving.worker import ComputeThread, worker_app
from prefillshare.transfer.tcp import TcpExporter


class PrefillWorker:
    """Owns the engine, its thread and the exporter."""

    def __init__(self, settings: ServeSettings) -> None:
        form = settings.kv_format
        model = load_model(settings.model, form.torch_dtype)
        module = PrefillModule(model, chunk_tokens=settings.chunk_tokens)
        model_id = ModelId.from_directory(settings.model)
        self.engine = PrefillEngine(module, model_id, form, settings.prefill_blocks)
        self.compute = ComputeThread(settings.threads)
        self.exporter = TcpExporter(
            settings.host,
            slice_bytes=form.slice_bytes(module.layout),
            # A fetch waits while its decode worker answers earlier requests.
            lease_seconds=settings.request_timeout,
        )

    async def prefill(self, request: PrefillRequest) -> PrefillReply:
        """Prefill and export; the blocks are held until they were fetched."""
        self.engine.model_id.require(ModelId(request.model_id), "the request")
        prefilled = await self.compute.run(
            lambda: self.engine.prefill(request.token_ids, request.tenant)
        )

        def release() -> None:
            # Called on a transfer thread; the engine belongs to the compute thread.
            self.compute.submit(lambda: self.engine.release(prefilled))

        try:
            buffers = [self.engine.pool.buffer(block) for block in prefilled.blocks]
            ticket = self.exporter.export(buffers, release)
        except BaseException:
            release()
            raise
        return self._reply(prefilled, ticket.to_dict())

    def _reply(self, prefilled: Prefilled, ticket: dict[str, Any]) -> PrefillReply:
        return PrefillReply(
            ticket=ticket,
            tokens=prefilled.tokens,
            cached_tokens=prefilled.cached_tokens,
            model_id=self.engine.model_id.digest,
            kv_format=self.engine.form.to_dict(),
        )

    def stats(self) -> dict[str, Any]:
        """Counters, and how much of the pool is free."""
        pool = self.engine.pool
        return {
            **vars(self.engine.counters),
            "free_blocks": pool.free_blocks,
            "indexed_blocks": len(self.engine.index),
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
