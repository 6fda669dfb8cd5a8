"""A bridge: one model's cache in, a cache that another model reads out.

For every layer of the target some layers of the source are read. Keys are taken out of
their positions, mapped, and put into the target's; values are mapped. It runs once for
a prompt, at the hand-off.

Shapes: H kv heads, S source and T target tokens, D head dimension, N tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import torch
from torch import nn

from prefillshare.errors import BridgeError
from prefillshare.kv.cache import KVCache
from prefillshare.kv.layout import KVLayout
from prefillshare.models.bridge.maps import MapKind, make_map
from prefillshare.models.bridge.rotary import Rotary
from prefillshare.models.bridge.spans import Alignment

# Keys and values `[1, H, T, D]` of every layer.
Layers = tuple[tuple[torch.Tensor, torch.Tensor], ...]


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
        kind: `copy` takes one source layer as it is; `linear` and `gated` map them.
        rank: of the linear maps; null is full.
        width: of the gated maps.
    """

    source: CacheShape
    target: CacheShape
    sources: tuple[tuple[int, ...], ...]
    kind: Literal["copy", MapKind] = "copy"
    rank: int | None = None
    width: int = 64

    def __post_init__(self) -> None:
        if len(self.sources) != self.target.layers:
            raise BridgeError(
                f"the target has {self.target.layers} layers, but sources are named "
                f"for {len(self.sources)}; name some for each"
            )
        named = {i for layers in self.sources for i in layers}
        if not all(self.sources) or not named <= set(range(self.source.layers)):
            raise BridgeError(
                f"sources name layers {sorted(named)} of {self.source.layers}; name at "
                "least one for each target layer, and none that does not exist"
            )
        if self.kind == "copy":
            self._require_copyable()

    def _require_copyable(self) -> None:
        here, there = self.source, self.target
        alike = (here.kv_heads, here.head_dim) == (there.kv_heads, there.head_dim)
        if not alike or any(len(layers) != 1 for layers in self.sources):
            raise BridgeError(
                f"kind `copy` needs one source layer each and equal sizes, not "
                f"{here.kv_heads} x {here.head_dim} into {there.kv_heads} x "
                f"{there.head_dim}; use `linear`"
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


class Bridge(nn.Module):
    """Maps caches. Its parameters can be trained; `BridgeSpec.kind` says what they are.

    Args:
        source_rotaries, target_rotaries: of every layer of the two models.
    """

    def __init__(
        self,
        spec: BridgeSpec,
        source_rotaries: Sequence[Rotary],
        target_rotaries: Sequence[Rotary],
    ) -> None:
        super().__init__()
        self.spec = spec
        self.source_rotaries = tuple(source_rotaries)
        self.target_rotaries = tuple(target_rotaries)
        self.keys, self.values = nn.ModuleList(), nn.ModuleList()
        if spec.kind != "copy":
            for layers in spec.sources:
                features = len(layers) * spec.source.width
                for maps in (self.keys, self.values):
                    made = make_map(
                        spec.kind, features, spec.target.width, spec.rank, spec.width
                    )
                    maps.append(made)

    @property
    def parameter_count(self) -> int:
        """How many numbers it learned."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(
        self,
        source: Layers,
        positions: torch.Tensor,
        alignment: Alignment | None = None,
        target_positions: torch.Tensor | None = None,
    ) -> Layers:
        """The target's layers.

        Args:
            source: the source model's cache.
            positions: of its tokens `[S]`.
            alignment: of the target's tokens to the source's; by default both have the
                same tokens.
            target_positions: of the target's tokens `[T]`; by default `positions`.
        """
        places = positions if target_positions is None else target_positions
        plain = _Plain(source, self.source_rotaries, positions, alignment)
        return tuple(
            self._layer(number, plain, places)
            for number in range(len(self.spec.sources))
        )

    @torch.no_grad()
    def carry(
        self, cache: KVCache, alignment: Alignment | None, tokens: int
    ) -> KVCache:
        """`forward` of a whole prompt at the hand-off: both count from position 0.

        Args:
            tokens: the target's.
        """
        device = cache.layers[0][0].device
        source = tuple((keys[None], values[None]) for keys, values in cache.layers)
        here, there = (torch.arange(n, device=device) for n in (cache.tokens, tokens))
        layers: Layers = self(source, here, alignment, there)
        return KVCache(tuple((keys[0], values[0]) for keys, values in layers))

    def _layer(
        self, number: int, plain: _Plain, places: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        layers, rotary = self.spec.sources[number], self.target_rotaries[number]
        if self.spec.kind == "copy":
            (only,) = layers
            if plain.unmoved(only, rotary, places):
                return plain.source[only]
            keys, values = plain.keys(only), plain.values(only)
        else:
            heads = self.spec.target.kv_heads
            keys = _heads(self.keys[number](plain.features(layers, 0)), heads)
            values = _heads(self.values[number](plain.features(layers, 1)), heads)
        return rotary.rotate(keys, places)[None], values[None]


def attach_bridge(decoder: Any, bridge: Bridge) -> None:
    """Make `bridge` a part of a decoder's model: they are trained together."""
    decoder.add_module("bridge", bridge)


def bridge_of(decoder: Any) -> Bridge | None:
    """The bridge that a decoder's model reads through, if it has one."""
    found: Bridge | None = dict(decoder.named_children()).get("bridge")
    return found


class _Plain:
    """A source cache without positions, in the target's tokens; each layer once."""

    def __init__(
        self,
        source: Layers,
        rotaries: Sequence[Rotary],
        positions: torch.Tensor,
        alignment: Alignment | None,
    ) -> None:
        self.source = source
        self._rotaries, self._positions = rotaries, positions
        self._alignment = None if alignment is None else alignment
        self._known: dict[tuple[int, int], torch.Tensor] = {}

    def unmoved(self, layer: int, rotary: Rotary, places: torch.Tensor) -> bool:
        """Whether the target's keys of this layer are the source's as they stand."""
        mine = self._rotaries[layer]
        same = self._alignment is None or self._alignment.is_identity
        return (
            same
            and torch.equal(places, self._positions)
            and mine.scaling == rotary.scaling
            and torch.equal(mine.frequencies, rotary.frequencies)
        )

    def keys(self, layer: int) -> torch.Tensor:
        """`[H, T, D]`."""
        return self._states(layer, 0)

    def values(self, layer: int) -> torch.Tensor:
        """`[H, T, D]`."""
        return self._states(layer, 1)

    def features(self, layers: Sequence[int], which: int) -> torch.Tensor:
        """All heads of `layers` side by side `[T, F]`: keys (0) or values (1)."""
        return torch.cat([_flat(self._states(layer, which)) for layer in layers], 1)

    def _states(self, layer: int, which: int) -> torch.Tensor:
        if (layer, which) not in self._known:
            states = self.source[layer][which][0]
            if which == 0:
                states = self._rotaries[layer].unrotate(states, self._positions)
            if self._alignment is not None:
                states = self._alignment.apply(states)
            self._known[layer, which] = states
        return self._known[layer, which]


def _flat(states_HTD: torch.Tensor) -> torch.Tensor:  # noqa: N803
    """`[H, T, D]` to `[T, H D]`."""
    return states_HTD.transpose(0, 1).flatten(1)


def _heads(flat: torch.Tensor, heads: int) -> torch.Tensor:
    """`[T, H D]` to `[H, T, D]`."""
    return flat.view(len(flat), heads, -1).transpose(0, 1)
