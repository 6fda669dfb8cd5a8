"""What every scheme offers to training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from prefillshare.training.objective import ResponseScores
from prefillshare.training.packing import Packed


class Scheme(Protocol):
    """A prefill that all decoders of a pass have in common, then one read for each."""

    def prefill(self, packed: Packed) -> Any:
        """What the reads of one pass share."""

    def read(
        self, decoder: Any, packed: Packed, which: Sequence[int], prefilled: Any
    ) -> ResponseScores:
        """Score the examples `which` with `decoder`."""


def score(scheme: Scheme, decoder: Any, packed: Packed) -> ResponseScores:
    """Score all of `packed` with one decoder."""
    everything = range(len(packed.examples))
    return scheme.read(decoder, packed, everything, scheme.prefill(packed))
