"""The prefill module: frozen, deterministic, chunked, resumable."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import pairwise

import torch
from transformers import DynamicCache, PreTrainedModel

from prefillshare.errors import ContextLengthError
from prefillshare.kv.cache import KVCache, empty_state
from prefillshare.kv.checkpoints import CheckpointStore
from prefillshare.kv.layout import KVLayout

# Called with the cache of each chunk and the position of its first token.
ChunkSink = Callable[[KVCache, int], None]
# Called with the cache of everything up to a checkpoint.
Keep = Callable[[KVCache], object]


class PrefillModule:
    """Reads a prompt and leaves its KV cache.

    Wraps any causal language model whose layers `KVLayout` describes.
    """

    def __init__(self, model: PreTrainedModel, *, chunk_tokens: int = 512) -> None:
        if chunk_tokens < 1:
            raise ValueError(f"chunk_tokens must be >= 1, got {chunk_tokens}")
        self.model = model
        self.layout = KVLayout.from_config(model.config)
        self.chunk_tokens = chunk_tokens
        self.context_tokens: int = (
            model.config.get_text_config().max_position_embeddings
        )

    @torch.no_grad()
    def prefill(
        self,
        token_ids: Sequence[int],
        past: KVCache | None = None,
        sink: ChunkSink | None = None,
        *,
        checkpoints: Collection[int] = (),
        keep: Keep | None = None,
    ) -> KVCache:
        """The cache of `token_ids`, of which `past` already covers a prefix.

        Args:
            token_ids: the whole prompt up to the boundary.
            past: the cache of `token_ids[:past.tokens]`; it is not changed.
            sink: gets each chunk's cache as soon as it is computed, with recurrent
                states as they are behind the chunk.
            checkpoints: numbers of tokens after which a chunk ends, so that the cache
                of that prefix exists at some moment. Those that `past` covers or the
                prompt does not reach are ignored.
            keep: gets the cache of the prefix at each checkpoint.

        Raises:
            ContextLengthError: the prompt exceeds the model's context.
            ValueError: no tokens, or `past` covers more than the prompt.
        """
        start = past.tokens if past is not None else 0
        self._check(len(token_ids), start)
        cache = past.to_transformers() if past and start else empty_state(self.layout)
        for first, stop in self._chunks(start, len(token_ids), checkpoints):
            self._forward(token_ids[first:stop], cache)
            if sink is not None:
                sink(KVCache.from_transformers(cache).slice(first, stop), first)
            if keep is not None and stop in checkpoints:
                keep(KVCache.from_transformers(cache))
        return KVCache.from_transformers(cache)

    def _chunks(
        self, start: int, stop: int, checkpoints: Collection[int]
    ) -> Iterator[tuple[int, int]]:
        """Where chunks begin and end: every `chunk_tokens`, and at checkpoints."""
        inside = {at for at in checkpoints if start < at < stop}
        regular = range(start, stop, self.chunk_tokens)
        return pairwise(sorted({*regular, *inside, stop}))

    def _forward(self, chunk: Sequence[int], cache: DynamicCache) -> None:
        self.model(
            input_ids=torch.tensor([list(chunk)], device=self.model.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )

    def _check(self, tokens: int, start: int) -> None:
        if tokens > self.context_tokens:
            raise ContextLengthError(
                f"the prompt has {tokens} tokens, but the prefill module's context is "
                f"{self.context_tokens}; shorten the shared context or the transcript"
            )
        if tokens < 1 or start > tokens:
            raise ValueError(
                f"cannot prefill {tokens} tokens after a past of {start} tokens"
            )


class CheckpointedPrefill:
    """A prefill module that resumes from the longest prefix it kept a checkpoint of.

    For recurrent models: their cache can be continued only where it was kept.
    """

    def __init__(
        self,
        module: PrefillModule,
        store: CheckpointStore,
        *,
        every_tokens: int | None = None,
    ) -> None:
        """`every_tokens` adds regular checkpoints to those that a caller declares."""
        if every_tokens is not None and every_tokens < 1:
            raise ValueError(f"every_tokens must be >= 1 or None, got {every_tokens}")
        self.module, self.store, self.every_tokens = module, store, every_tokens

    def prefill(
        self, root: bytes, token_ids: Sequence[int], boundaries: Collection[int] = ()
    ) -> KVCache:
        """The cache of `token_ids`, computed from the longest checkpoint of a prefix.

        Args:
            root: what else the cache depends on (`ModelId.cache_root`).
            token_ids: the whole prompt up to the boundary.
            boundaries: numbers of tokens that later prompts may share: the end of the
                shared context, of each turn. Checkpoints are kept there.

        Raises:
            ContextLengthError: the prompt exceeds the model's context.
            ValueError: no tokens.
        """
        past = self.store.match(root, token_ids)

        def keep(cache: KVCache) -> None:
            self.store.insert(root, token_ids[: cache.tokens], cache)

        return self.module.prefill(
            token_ids,
            past,
            checkpoints=self._places(len(token_ids), boundaries),
            keep=keep,
        )

    def _places(self, tokens: int, boundaries: Collection[int]) -> set[int]:
        every = self.every_tokens or tokens + 1
        return {*boundaries, *range(every, tokens + 1, every)}
