"""Workers and routers refuse bridged caches, and orders for them, of others."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from prefillshare.errors import IdentityError
from prefillshare.kv.cache import KVCache
from prefillshare.kv.identity import ModelId
from prefillshare.serving.decode import DecodeWorker
from prefillshare.serving.host import Host
from prefillshare.serving.messages import (
    BridgeOrder,
    DecodeRequest,
    PrefillReply,
    PrefillRequest,
)
from prefillshare.serving.prefill import PrefillWorker
from prefillshare.serving.router import Router
from prefillshare.transfer.base import Grant
from tests.serving.bridged import Stage


def test_a_foreign_order_is_refused_by_name(
    stage: Stage, new_host: Callable[[], Host]
) -> None:
    worker = PrefillWorker(stage.settings, new_host())
    order = BridgeOrder(bridge="a" * 64, source_tokens=3, token_ids=[5, 6, 7])
    request = PrefillRequest(
        request_id="r",
        model_id=worker.engine.model_id.digest,
        token_ids=[5, 6, 7],
        bridge=order,
    )

    async def ask() -> None:
        with pytest.raises(IdentityError, match="names bridge aaaaaaaaaaaa"):
            await worker.prefill(request)
        known = order.model_copy(update={"bridge": next(iter(worker.outboxes))})
        short = request.model_copy(update={"bridge": known, "token_ids": [5, 6]})
        with pytest.raises(IdentityError, match="for 3 tokens, the cache covers 2"):
            await worker.prefill(short)

    try:
        anyio.run(ask)
        pool = worker.engine.pool
        assert pool.num_blocks - pool.free_blocks == len(worker.engine.index)
    finally:
        worker.close()


def test_a_decode_worker_wants_its_own_bridges_caches(
    stage: Stage, new_host: Callable[[], Host]
) -> None:
    worker = DecodeWorker(stage.settings, "half", new_host())
    try:
        hand_off = worker.hand_off
        assert hand_off is not None
        assert set(worker.inboxes) == {worker.base_id, hand_off.made_id}
        own = BridgeOrder(bridge=hand_off.digest, source_tokens=3, token_ids=[5, 6, 7])
        grant = Grant("tcp://127.0.0.1:1", "0" * 32, "0" * 32, "0" * 64, "read", 1)
        offered = {"grant": grant, "blocks": 1, "bytes_per_block": 1, "tokens": 3}
        offered |= {"cached_tokens": 0, "kv_format": {}}
        for made_by, order, said in (
            # Of the module, with nobody to bridge it; bridged, and to be bridged again.
            (worker.base_id, None, "neither bridged nor to be bridged"),
            (hand_off.made_id, own, "neither bridged nor to be bridged"),
            (ModelId("c" * 64), None, "the offered cache is of cccccccccccc"),
        ):
            reply = PrefillReply(model_id=made_by.digest, **offered)
            request = DecodeRequest(
                request_id="r",
                token_ids=[5, 6, 7, 8],
                boundary=3,
                prefill=reply,
                bridge=order,
                max_tokens=1,
                stop_ids=[],
            )
            with pytest.raises(IdentityError, match=said):
                worker._prompt_cache(request)
        foreign = own.model_copy(update={"bridge": "a" * 64})
        with pytest.raises(IdentityError, match="the order names bridge aaaaaaaaaaaa"):
            hand_off.carry(KVCache(()), foreign)
    finally:
        worker.close()


def test_a_router_is_told_the_decoders_own_model(stage: Stage) -> None:
    decoders = [
        d.model_copy(update={"model": stage.settings.model}) if d.name == "half" else d
        for d in stage.settings.decoders
    ]
    with pytest.raises(IdentityError, match="name the right model"):
        Router(stage.settings.model_copy(update={"decoders": decoders}))
