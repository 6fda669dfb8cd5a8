"""What a bridge joins and how, but for its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from prefillshare.errors import BridgeError
from prefillshare.kv.layout import KVLayout
from prefillshare.models.bridge.maps import MapKind


@dataclass(frozen=True)
class CacheShape:
    """Layers whose keys and values are all of one size."""

    layers: int
    kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, layout: KVLayout) -> Self:
        """That of a model.

        Raises:
            BridgeError: its layers are unlike, or some keep a recurrent state.
        """
        sizes = {(layer.kv_heads, layer.head_dim) for layer in layout.layers}
        if layout.has_recurrent_state or len(sizes) != 1:
            raise BridgeError(
                f"the model's layers keep {len(sizes)} sizes of keys and values"
                f"{', and recurrent states' if layout.has_recurrent_state else ''}; a "
                "bridge needs attention layers of one size"
            )
        ((kv_heads, head_dim),) = sizes
        return cls(len(layout.layers), kv_heads, head_dim)

    @property
    def width(self) -> int:
        """Numbers in one token's keys (or values) of a layer."""
        return self.kv_heads * self.head_dim


@dataclass(frozen=True)
class BridgeSpec:
    """What a bridge is, but for its weights.

    Attributes:
        sources: for each target layer, the source layers that it is made of.
        kind: `copy` takes one source layer as it is; `linear` and `gated` map keys and
            values together.
        rank: of the linear maps; null is full.
        width: of the gated maps.
        embeddings: of how many of the target's own tokens, one and those before it,
            the maps also see the embeddings. They say which token it is, to the
            letter, and cost a look-up; the source says what it means there.
        embedding_dim: numbers in one of those embeddings.
    """

    source: CacheShape
    target: CacheShape
    sources: tuple[tuple[int, ...], ...]
    kind: Literal["copy", MapKind] = "copy"
    rank: int | None = None
    width: int = 64
    embeddings: int = 0
    embedding_dim: int = 0

    def __post_init__(self) -> None:
        if len(self.sources) != self.target.layers:
            raise BridgeError(
                f"the target has {self.target.layers} layers, but sources are named "
                f"for {len(self.sources)}; name some for each"
            )
        named = {i for layers in self.sources for i in layers}
        enough = self.embeddings > 0 or all(self.sources)
        if not enough or not named <= set(range(self.source.layers)):
            raise BridgeError(
                f"sources name layers {sorted(named)} of {self.source.layers}; name at "
                "least one for each target layer, and none that does not exist"
            )
        if self.embeddings and not self.embedding_dim:
            raise BridgeError(
                f"the maps should see {self.embeddings} embeddings of no numbers; say "
                "how long an embedding is"
            )
        if self.kind == "copy":
            self._require_copyable()

    def _require_copyable(self) -> None:
        here, there = self.source, self.target
        if self.embeddings:
            raise BridgeError(
                f"kind `copy` sees no embeddings, but {self.embeddings} were asked "
                "for; use `linear`, or `embeddings: 0`"
            )
        alike = (here.kv_heads, here.head_dim) == (there.kv_heads, there.head_dim)
        if not alike or any(len(layers) != 1 for layers in self.sources):
            raise BridgeError(
                f"kind `copy` needs one source layer each and equal sizes, not "
                f"{here.kv_heads} x {here.head_dim} into {there.kv_heads} x "
                f"{there.head_dim}; use `linear`"
            )

    @property
    def features(self) -> tuple[int, ...]:
        """How many numbers each target layer's map sees of one token."""
        known = self.embeddings * self.embedding_dim
        return tuple(
            known + 2 * len(layers) * self.source.width for layers in self.sources
        )

    def to_dict(self) -> dict[str, Any]:
        """As it is recorded in JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        shapes = {key: CacheShape(**fields[key]) for key in ("source", "target")}
        sources = tuple(tuple(layers) for layers in fields["sources"])
        return cls(**{**fields, **shapes, "sources": sources})
