"""Blocks that hold caches on their way: to be sent, or received to be read."""

from __future__ import annotations

from collections.abc import Sequence

from prefillshare.errors import CapacityError
from prefillshare.kv.blocks import BlockPool
from prefillshare.kv.cache import KVCache, read_blocks, write_block
from prefillshare.kv.layout import KVFormat, KVLayout


class Staging:
    """Caches of one layout in a pool of blocks. Not thread-safe: one thread owns it.

    Args:
        blocks: how many there are, each of `form.block_tokens` tokens.
        setting: what configures that number, for messages.
        memory: where they lie, see `BlockPool`.
    """

    def __init__(
        self,
        layout: KVLayout,
        form: KVFormat,
        blocks: int,
        setting: str,
        memory: memoryview | None = None,
    ) -> None:
        self.layout, self.form = layout, form
        self.pool = BlockPool(blocks, form.bytes_per_block(layout), memory)
        self._setting = setting

    def allocate(self, tokens: int) -> list[int]:
        """Blocks for `tokens` tokens, held until they are freed.

        Raises:
            CapacityError: there are too few.
        """
        wanted = self.form.blocks(tokens)
        if not self.pool.can_allocate(wanted):
            raise CapacityError(
                f"{tokens} tokens need {wanted} KV blocks, {self.pool.free_blocks} of "
                f"{self.pool.num_blocks} are free; raise {self._setting} or send fewer "
                "requests at a time"
            )
        return self.pool.allocate(wanted)

    def write(self, cache: KVCache) -> list[int]:
        """Blocks that hold `cache`, until they are freed.

        Raises:
            CapacityError: there are too few.
        """
        blocks = self.allocate(cache.tokens)
        for i, block in enumerate(blocks):
            start = i * self.form.block_tokens
            write_block(self.pool.view(block), cache, start, self.layout, self.form)
        return blocks

    def read(self, blocks: Sequence[int], tokens: int) -> KVCache:
        """The cache of `tokens` tokens that `blocks` hold, copied."""
        views = [self.pool.view(block) for block in blocks]
        return read_blocks(views, tokens, self.layout, self.form)

    def free(self, blocks: Sequence[int]) -> None:
        """Give blocks back."""
        self.pool.free(blocks)
