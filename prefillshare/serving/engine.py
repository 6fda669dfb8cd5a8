"""Prefill with a prefix cache over a pool of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prefillshare.errors import CapacityError
from prefillshare.kv.blocks import BlockPool
from prefillshare.kv.cache import KVCache, read_blocks, write_block
from prefillshare.kv.identity import ModelId
from prefillshare.kv.layout import KVFormat
from prefillshare.kv.prefix import PrefixIndex
from prefillshare.models.prefill import PrefillModule


@dataclass(frozen=True)
class Prefilled:
    """A prompt's blocks, one reference of each held for the caller."""

    blocks: list[int]
    tokens: int
    cached_tokens: int


@dataclass
class PrefillCounters:
    """Totals since the start, in requests and tokens."""

    requests: int = 0
    computed_tokens: int = 0
    cached_tokens: int = 0


class PrefillEngine:
    """One prefill module with its block pool. Not thread-safe: one thread owns it."""

    def __init__(
        self,
        module: PrefillModule,
        model_id: ModelId,
        form: KVFormat,
        blocks: int,
        memory: memoryview | None = None,
    ) -> None:
        """Make a pool of `blocks` blocks, over `memory` if it is given.

        Raises:
            UnsupportedModelError: blocks cannot hold the module's cache.
        """
        module.layout.require_blocks()
        self.module, self.model_id, self.form = module, model_id, form
        self.pool = BlockPool(blocks, form.bytes_per_block(module.layout), memory)
        self.index = PrefixIndex(self.pool, form.block_tokens)
        self.counters = PrefillCounters()

    def prefill(self, token_ids: Sequence[int], tenant: str = "") -> Prefilled:
        """Compute what the prefix cache lacks; full blocks enter the prefix cache.

        The last, partial block stays out of it: it belongs to this request alone.

        Raises:
            CapacityError: the prompt does not fit into the pool beside those in use.
            ContextLengthError: the prompt exceeds the model's context.
        """
        root = self.model_id.cache_root(self.form, tenant)
        match = self.index.match(root, token_ids)
        try:
            fresh = self._compute(token_ids, match.blocks, match.tokens)
        except BaseException:
            self.pool.free(match.blocks)
            raise
        blocks = match.blocks + fresh
        full = len(token_ids) // self.form.block_tokens
        self.index.insert(
            root, token_ids[: full * self.form.block_tokens], blocks[:full]
        )
        self._count(len(token_ids), match.tokens)
        return Prefilled(blocks, len(token_ids), match.tokens)

    def cache(self, prefilled: Prefilled) -> KVCache:
        """The tensors of a prefilled prompt, copied out of its blocks."""
        return self._read(prefilled.blocks, prefilled.tokens)

    def release(self, prefilled: Prefilled) -> None:
        """Give the caller's references back."""
        self.pool.free(prefilled.blocks)

    def _compute(
        self, token_ids: Sequence[int], cached: list[int], tokens: int
    ) -> list[int]:
        fresh = self._allocate(self.form.blocks(len(token_ids)) - len(cached))
        try:
            past = self._read(cached, tokens) if tokens else None
            if tokens < len(token_ids):
                cache = self.module.prefill(token_ids, past)
                for i, block in enumerate(fresh):
                    start = tokens + i * self.form.block_tokens
                    view = self.pool.view(block)
                    write_block(view, cache, start, self.module.layout, self.form)
        except BaseException:
            self.pool.free(fresh)
            raise
        return fresh

    def _allocate(self, wanted: int) -> list[int]:
        if not self.pool.can_allocate(wanted):
            self.index.evict(wanted - self.pool.free_blocks)
        if not self.pool.can_allocate(wanted):
            raise CapacityError(
                f"the prompt needs {wanted} more KV blocks, {self.pool.free_blocks} "
                "are free and the rest is in use; raise prefill_blocks or send fewer "
                "requests at a time"
            )
        return self.pool.allocate(wanted)

    def _read(self, blocks: Sequence[int], tokens: int) -> KVCache:
        views = [self.pool.view(block) for block in blocks]
        return read_blocks(views, tokens, self.module.layout, self.form)

    def _count(self, tokens: int, cached: int) -> None:
        self.counters.requests += 1
        self.counters.computed_tokens += tokens - cached
        self.counters.cached_tokens += cached
