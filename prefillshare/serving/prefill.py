"""The prefill worker: computes caches and lends them for a transfer."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Path

from prefillshare.errors import IdentityError
from prefillshare.kv.identity import ModelId
from prefillshare.models.loading import load_model
from prefillshare.models.prefill import PrefillModule
from prefillshare.serving.engine import PrefillEngine
from prefillshare.serving.host import Host
from prefillshare.serving.messages import BridgeOrder, PrefillReply, PrefillRequest
from prefillshare.serving.outbox import Held, Outbox, outboxes_of
from prefillshare.serving.settings import ServeSettings
from prefillshare.serving.worker import ComputeThread, worker_app

GrantId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]


class PrefillWorker:
    """Owns the engine and its thread, and the host from here on."""

    def __init__(self, settings: ServeSettings, host: Host) -> None:
        self.form, self.host = settings.kv_format, host
        # A cache waits while its decode worker answers earlier requests.
        self.lease_seconds = settings.request_timeout
        model = load_model(settings.model, self.form.torch_dtype)
        module = PrefillModule(model, chunk_tokens=settings.chunk_tokens)
        model_id = ModelId.from_directory(settings.model)
        module.layout.require_blocks()
        blocks = settings.prefill_blocks
        self.memory = host.pool(blocks, self.form.bytes_per_block(module.layout))
        self.engine = PrefillEngine(
            module, model_id, self.form, blocks, self.memory.view
        )
        self.outboxes = outboxes_of(settings, model_id, host)
        self.compute = ComputeThread(settings.threads)

    async def prefill(self, request: PrefillRequest) -> PrefillReply:
        """Prefill and lend; the blocks are held until they were read."""
        self.engine.model_id.require(ModelId(request.model_id), "the request")
        return await self.compute.run(lambda: self._lend(self._hold(request)))

    def _lend(self, held: Held) -> PrefillReply:
        def release() -> None:
            # Called on a transfer thread; the blocks belong to the compute thread.
            self.compute.submit(held.release)

        try:
            grant = self.host.lend(
                held.memory, held.blocks, release, self.lease_seconds
            )
        except BaseException:
            held.release()
            raise
        return PrefillReply(
            grant=grant,
            blocks=len(held.blocks),
            bytes_per_block=held.memory.bytes_per_block,
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
                self.memory,
                prefilled.blocks,
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
            "bytes_sent": self.host.bytes_sent,
        }

    def close(self) -> None:
        """End loans first: their releases are queued on the compute thread."""
        self.host.end_loans()
        self.compute.close()
        self.host.close()


def prefill_app(settings: ServeSettings) -> FastAPI:
    """The worker's HTTP interface."""
    worker = PrefillWorker(settings, Host(settings.agent))
    app = worker_app(worker.close)

    @app.post("/prefill")
    async def prefill(request: PrefillRequest) -> PrefillReply:
        return await worker.prefill(request)

    @app.delete("/transfers/{transfer_id}")
    def cancel(transfer_id: GrantId) -> dict[str, str]:
        worker.host.withdraw(transfer_id)
        return {"status": "cancelled"}

    @app.get("/stats")
    async def stats() -> dict[str, Any]:
        return await worker.compute.run(worker.stats)

    return app
