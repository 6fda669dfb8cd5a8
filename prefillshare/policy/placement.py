"""Where work on the way from prefill to decode is done."""

from __future__ import annotations

from typing import Literal

Side = Literal["prefill", "decode"]


def bridge_side(source_bytes: int, bridged_bytes: int) -> Side:
    """The side on which a cache is bridged: the one that moves fewer bytes.

    Equal caches are bridged where they are read: the prefill module's is then the same
    for all decoders, and its worker computes for nobody in particular.

    Args:
        source_bytes: of the prefill module's cache of a prompt.
        bridged_bytes: of what the bridge makes of it.
    """
    return "prefill" if bridged_bytes < source_bytes else "decode"
