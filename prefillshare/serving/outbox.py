"""What a prefill worker lends for a transfer, and caches that it bridges first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prefillshare.kv.cache import KVCache
from prefillshare.kv.identity import ModelId
from prefillshare.kv.layout import KVFormat
from prefillshare.kv.staging import Staging
from prefillshare.serving.bridging import HandOff, hand_off_of
from prefillshare.serving.host import Host, PoolMemory
from prefillshare.serving.messages import BridgeOrder
from prefillshare.serving.settings import ServeSettings


@dataclass(frozen=True)
class Held:
    """A cache in blocks, held until `release` is called on the compute thread."""

    memory: PoolMemory
    blocks: list[int]
    model_id: ModelId
    tokens: int
    cached_tokens: int
    release: Callable[[], None]


class Outbox:
    """Bridged caches of one decoder, until they were fetched."""

    def __init__(
        self, hand_off: HandOff, form: KVFormat, blocks: int, host: Host
    ) -> None:
        self._hand_off = hand_off
        self._memory = host.pool(blocks, form.bytes_per_block(hand_off.layout))
        self.staging = Staging(
            hand_off.layout, form, blocks, "decode_blocks", self._memory.view
        )

    @property
    def held_blocks(self) -> int:
        """Of caches that wait to be fetched."""
        return self.staging.pool.num_blocks - self.staging.pool.free_blocks

    def hold(self, cache: KVCache, order: BridgeOrder, cached_tokens: int) -> Held:
        """Bridge `cache` and hold what comes of it.

        Raises:
            CapacityError: too many bridged caches wait to be fetched.
            IdentityError: the order is for another prompt.
        """
        made = self._hand_off.carry(cache, order)
        blocks = self.staging.write(made)
        return Held(
            self._memory,
            blocks,
            self._hand_off.made_id,
            made.tokens,
            cached_tokens,
            lambda: self.staging.free(blocks),
        )


def outboxes_of(
    settings: ServeSettings, base_id: ModelId, host: Host
) -> dict[str, Outbox]:
    """By the bridge's digest, of every decoder that reads through one."""
    form, blocks = settings.kv_format, settings.decode_blocks
    found = (hand_off_of(d, base_id, form) for d in settings.decoders)
    return {
        hand_off.digest: Outbox(hand_off, form, blocks, host)
        for hand_off in found
        if hand_off is not None
    }
