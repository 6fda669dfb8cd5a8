"""The prefill module: frozen, deterministic, chunked, resumable."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import DynamicCache, PreTrainedModel

from prefillshare.errors import ContextLengthError
from prefillshare.kv.cache import KVCache
from prefillshare.kv.layout import KVLayout

# Called with the cache of each chunk and the position of its first token.
ChunkSink = Callable[[KVCache, int], None]


class PrefillModule:
    """Reads a prompt and leaves its KV cache.

    Wraps any causal language model whose layers are all full attention.
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
    ) -> KVCache:
        """The cache of `token_ids`, of which `past` already covers a prefix.

        Args:
            token_ids: the whole prompt up to the boundary.
            past: the cache of `token_ids[:past.tokens]`; it is not changed.
            sink: gets each chunk's cache as soon as it is computed.

        Raises:
            ContextLengthError: the prompt exceeds the model's context.
            ValueError: no tokens, or `past` covers more than the prompt.
        """
        start = past.tokens if past is not None else 0
        self._check(len(token_ids), start)
        cache = past.to_transformers() if past is not None and start else DynamicCache()
        for first in range(start, len(token_ids), self.chunk_tokens):
            chunk = token_ids[first : first + self.chunk_tokens]
            self._forward(chunk, cache)
            if sink is not None:
                whole = KVCache.from_transformers(cache)
                sink(whole.slice(first, first + len(chunk)), first)
        return KVCache.from_transformers(cache)

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
