"""Decoders' bridges at the hand-off, on either worker's side."""

from __future__ import annotations

import torch

from prefillshare.errors import IdentityError
from prefillshare.kv.cache import KVCache
from prefillshare.kv.identity import ModelId
from prefillshare.kv.layout import KVFormat, KVLayout
from prefillshare.models.bridge.bridge import Bridge
from prefillshare.models.bridge.spans import Alignment
from prefillshare.models.decoder import load_decoder_bridge
from prefillshare.models.loading import load_embeddings, model_layout
from prefillshare.models.record import DecoderRecord
from prefillshare.serving.messages import BridgeOrder
from prefillshare.serving.settings import DecoderSettings


class HandOff:
    """A decoder's bridge, and the identity and layout of the caches that it makes."""

    def __init__(
        self, bridge: Bridge, digest: str, made_id: ModelId, layout: KVLayout
    ) -> None:
        self.digest, self.made_id, self.layout = digest, made_id, layout
        self._bridge = bridge

    def carry(self, cache: KVCache, order: BridgeOrder) -> KVCache:
        """The decoder's cache of what `cache` covers.

        Raises:
            IdentityError: the order is for another bridge, or another prompt.
        """
        if order.bridge != self.digest:
            raise IdentityError(
                f"the order names bridge {order.bridge[:12]}, but this decoder reads "
                f"through {self.digest[:12]}; start the router and the workers with "
                "the same decoder"
            )
        if cache.tokens != order.source_tokens:
            raise IdentityError(
                f"the order is for {order.source_tokens} tokens, the cache covers "
                f"{cache.tokens}"
            )
        rows = order.shares
        alignment = None if rows is None else Alignment.of([tuple(r) for r in rows])
        return self._bridge.carry(cache, order.token_ids, alignment)


def weights_of(decoder: DecoderSettings, record: DecoderRecord) -> ModelId | None:
    """Identity of the model that a decoder's weights started from, if another's.

    Raises:
        IdentityError: the settings name no such model, or another one.
    """
    given = ModelId.from_directory(decoder.model) if decoder.model else None
    record.require_weights(given)
    return given


def hand_off_of(
    decoder: DecoderSettings,
    base_id: ModelId,
    form: KVFormat,
    table: torch.Tensor | None = None,
) -> HandOff | None:
    """The bridge of a decoder that reads `base_id` through one, in `form`'s type.

    Args:
        table: the embeddings of the decoder's model, if they are loaded already.

    Raises:
        CheckpointError: the bridge is missing, damaged, or not the decoder's.
        IdentityError: it joins other models.
        UnsupportedModelError: blocks cannot hold the caches that it makes.
    """
    record = DecoderRecord.load(decoder.path)
    record.require_base(base_id)
    weights_of(decoder, record)
    bridge = load_decoder_bridge(decoder.path, record)
    if record.bridge is None or bridge is None:
        return None
    assert decoder.model is not None, "bridged decoders start from a named model"
    layout = model_layout(decoder.model)
    layout.require_blocks()
    made = torch.nn.Module.to(bridge, form.torch_dtype)
    if bridge.spec.embeddings:
        if table is None:
            table = load_embeddings(decoder.model, form.torch_dtype)
        bridge.take_embeddings(table)
    return HandOff(made, record.bridge, base_id.bridged(record.bridge), layout)
