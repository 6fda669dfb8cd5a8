"""One ordinary forward over prompt and response.

`Own` is the ordinary fine-tune: the decoder reads its own cache. `OnePass` keeps a
LoRA adapter off before the boundary, by PEFT's aLoRA offsets (Activated LoRA, arXiv
2504.12397): exactly the cache-conditioned objective, but the prompt keeps activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefillshare.errors import ConfigError
from prefillshare.training.objective import ResponseScores
from prefillshare.training.packing import Packed, Row
from prefillshare.training.rows import attention_mask, read_row


class Own:
    """The decoder prefills for itself."""

    def prefill(self, packed: Packed) -> None:
        """Nothing is shared."""

    def read(
        self, decoder: Any, packed: Packed, which: Sequence[int], prefilled: None
    ) -> ResponseScores:
        """Score the examples `which`."""
        return self._score(decoder, packed, which)

    def _score(
        self, decoder: Any, packed: Packed, which: Sequence[int], **inputs: Any
    ) -> ResponseScores:
        row = Row((*packed.prefill.pieces, *packed.decoder_row(which).pieces))
        positions = row.positions(decoder.device)
        mask = attention_mask(decoder.config, row, 0, positions, positions)
        examples = [packed.examples[i] for i in which]
        return read_row(decoder, row, examples, None, mask, **inputs)


class OnePass(Own):
    """The adapter is on for the decoder's tokens only."""

    def read(
        self, decoder: Any, packed: Packed, which: Sequence[int], prefilled: None
    ) -> ResponseScores:
        """Score the examples `which`.

        Raises:
            ConfigError: the decoder is no LoRA adapter with aLoRA's variant enabled.
        """
        configs = getattr(decoder, "peft_config", {}).values()
        if not any(getattr(c, "alora_invocation_tokens", None) for c in configs):
            raise ConfigError(
                "the one-pass path needs a LoRA decoder with `alora_invocation_tokens`;"
                " use `method: lora` with `path: one_pass`, or `path: cached`"
            )
        tail = packed.decoder_row(which).tokens
        return self._score(decoder, packed, which, alora_offsets=[tail])
