"""A bridge: one model's cache in, a cache that another model reads out.

For every layer of the target some layers of the source are read. Their keys are taken
out of their positions and mapped, with their values, to the target's keys and values;
those keys are put into the target's positions. It runs once for a prompt, at the
hand-off.

Shapes: H kv heads, S source and T target tokens, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from prefillshare.errors import BridgeError
from prefillshare.kv.cache import KVCache
from prefillshare.models.bridge.maps import make_map
from prefillshare.models.bridge.rotary import Rotary
from prefillshare.models.bridge.spans import Alignment
from prefillshare.models.bridge.spec import BridgeSpec
from prefillshare.models.bridge.target import TargetTokens

# Keys and values `[1, H, T, D]` of every layer.
Layers = tuple[tuple[torch.Tensor, torch.Tensor], ...]


class Bridge(nn.Module):
    """Maps caches. Its parameters can be trained; `BridgeSpec.kind` says what they are.

    One whose maps see embeddings needs those of the target's model before it is used
    (`take_embeddings`); they are no part of it.

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
        self.maps = nn.ModuleList()
        self.register_buffer("table", None, persistent=False)
        if spec.kind != "copy":
            for features in spec.features:
                outputs = 2 * spec.target.width
                self.maps.append(
                    make_map(spec.kind, features, outputs, spec.rank, spec.width)
                )

    @property
    def parameter_count(self) -> int:
        """How many numbers it learned."""
        return sum(parameter.numel() for parameter in self.parameters())

    def take_embeddings(self, table: torch.Tensor) -> None:
        """Use `table` `[V, E]`: the target's, as the bridge was fitted to them.

        Raises:
            BridgeError: its embeddings have another length.
        """
        if self.spec.embeddings == 0:
            return
        if table.shape[1] != self.spec.embedding_dim:
            raise BridgeError(
                f"the bridge reads embeddings of {self.spec.embedding_dim} numbers, "
                f"the model's have {table.shape[1]}; give the model it was fitted to"
            )
        self.table = table.detach()

    def forward(
        self, source: Layers, positions: torch.Tensor, target: TargetTokens
    ) -> Layers:
        """The target's layers.

        Args:
            source: the source model's cache.
            positions: of its tokens `[S]`.
            target: the tokens that the target's layers are of.
        """
        plain = _Plain(source, self.source_rotaries, positions, target.alignment)
        known = self._known(target, source[0][0].dtype)
        return tuple(
            self._layer(number, plain, known, target.positions)
            for number in range(len(self.spec.sources))
        )

    @torch.no_grad()
    def carry(
        self, cache: KVCache, token_ids: Sequence[int], alignment: Alignment | None
    ) -> KVCache:
        """`forward` of a whole prompt at the hand-off: both count from position 0.

        Args:
            token_ids: the target's.
        """
        device = cache.layers[0][0].device
        source = tuple((keys[None], values[None]) for keys, values in cache.layers)
        positions = torch.arange(cache.tokens, device=device)
        target = TargetTokens.prompt(token_ids, alignment, device)
        layers: Layers = self(source, positions, target)
        return KVCache(tuple((keys[0], values[0]) for keys, values in layers))

    def _known(self, target: TargetTokens, dtype: torch.dtype) -> list[torch.Tensor]:
        """What the maps see beside the source, if anything."""
        if not self.spec.embeddings:
            return []
        if self.table is None:
            raise BridgeError(
                "the bridge reads the decoder's embeddings and has none; name the "
                "model that the decoder was made of"
            )
        return [target.embedded(self.table, self.spec.embeddings).to(dtype)]

    def _layer(
        self,
        number: int,
        plain: _Plain,
        known: list[torch.Tensor],
        places: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        layers, rotary = self.spec.sources[number], self.target_rotaries[number]
        if self.spec.kind == "copy":
            (only,) = layers
            if plain.unmoved(only, rotary, places):
                return plain.source[only]
            keys, values = plain.keys(only), plain.values(only)
        else:
            seen = torch.cat([*known, *plain.features(layers)], 1)
            mapped = self.maps[number](seen).chunk(2, 1)
            heads = self.spec.target.kv_heads
            keys, values = (_heads(each, heads) for each in mapped)
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
        self._alignment = alignment
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

    def features(self, layers: Sequence[int]) -> list[torch.Tensor]:
        """Keys and values of each of `layers`, all heads side by side `[T, F]`."""
        return [
            _flat(states)
            for layer in layers
            for states in (self.keys(layer), self.values(layer))
        ]

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
