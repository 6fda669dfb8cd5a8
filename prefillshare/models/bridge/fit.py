"""Fitting a bridge in closed form: which layers tell most, and the ridge maps.

Both models read the same texts; one pass over their caches leaves sums from which any
choice of layers and any penalty follows.

Shapes: T target tokens, F features (embeddings, then keys and values of all heads of
all source layers), O outputs (keys, then values), V vocabulary, E numbers in an
embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from prefillshare.errors import BridgeError
from prefillshare.models.bridge.bridge import Bridge, Layers
from prefillshare.models.bridge.maps import GatedLayer, LinearLayer, MapKind
from prefillshare.models.bridge.ridge import LinearMap, NormalEquations
from prefillshare.models.bridge.rotary import Rotary
from prefillshare.models.bridge.spans import Alignment
from prefillshare.models.bridge.spec import BridgeSpec, CacheShape
from prefillshare.models.bridge.target import TargetTokens

# The two parts of a map's outputs.
_KEYS_AND_VALUES = 2


@dataclass(frozen=True)
class Pair:
    """Two caches of one text: what a bridge reads, and what it should make.

    Both hold positions from 0 on; `tokens` are the target's.
    """

    source: Layers
    target: Layers
    tokens: TargetTokens


@dataclass(frozen=True)
class FitSettings:
    """How a bridge is fitted.

    Attributes:
        layers: how many source layers a target layer is made of.
        ridge: the penalty, in mean squares of the features.
        nearest: of how many source layers, those at the most similar depth, the best
            are chosen.
        skip: of each text, the first tokens that are not fitted: the first token's
            keys and values are unlike all others, and would outweigh them.
        embeddings: see `BridgeSpec`.
    """

    layers: int = 2
    ridge: float = 0.01
    nearest: int = 8
    kind: MapKind = "linear"
    rank: int | None = None
    width: int = 64
    skip: int = 1
    embeddings: int = 0


@dataclass(frozen=True)
class Fitted:
    """A bridge, and of each target layer the share of variance that it explains."""

    bridge: Bridge
    keys: tuple[float, ...]
    values: tuple[float, ...]
    examples: int


def fit_bridge(
    pairs: Iterable[Pair],
    shapes: tuple[CacheShape, CacheShape],
    rotaries: tuple[Sequence[Rotary], Sequence[Rotary]],
    settings: FitSettings,
    table: torch.Tensor | None = None,
    on_pair: Callable[[int], object] | None = None,
) -> Fitted:
    """Fit the maps from source to target, both given as `(source, target)`.

    Args:
        table: the target's embeddings `[V, E]`, if the settings want any.
        on_pair: called with the number of tokens that each text gave.

    Raises:
        BridgeError: there are fewer tokens than features.
    """
    source, target = shapes
    sums = _Sums(source, target, settings, table)
    for pair in pairs:
        tokens = sums.add(pair, rotaries)
        if on_pair is not None:
            on_pair(tokens)
    needed = sums.known + 2 * settings.layers * source.width
    if sums.examples <= needed:
        raise BridgeError(
            f"{sums.examples} tokens cannot fit maps of {needed} features; give more "
            "text, or fewer layers or embeddings"
        )
    return sums.solve(rotaries)


class _Sums:
    """Normal equations of every target layer over its nearest source layers."""

    def __init__(
        self,
        source: CacheShape,
        target: CacheShape,
        settings: FitSettings,
        table: torch.Tensor | None,
    ) -> None:
        self.source, self.target, self.settings = source, target, settings
        self._table = table if settings.embeddings else None
        self._dim = 0 if self._table is None else self._table.shape[1]
        self.examples = 0
        # Features that are no source layer's.
        self.known = settings.embeddings * self._dim
        wanted = min(settings.nearest, source.layers) if settings.layers else 0
        self.near = [
            _nearest(number, target.layers, source.layers, wanted)
            for number in range(target.layers)
        ]
        features = self.known + wanted * 2 * source.width
        self.equations = [
            NormalEquations(features, 2 * target.width) for _ in range(target.layers)
        ]

    def add(
        self, pair: Pair, rotaries: tuple[Sequence[Rotary], Sequence[Rotary]]
    ) -> int:
        """Count one text in; returns how many tokens that was."""
        skip, alignment = self.settings.skip, pair.tokens.alignment
        wanted = {layer for near in self.near for layer in near}
        x = {i: _states(pair.source[i], rotaries[0][i], alignment) for i in wanted}
        known = []
        if self._table is not None:
            embedded = pair.tokens.embedded(self._table, self.settings.embeddings)
            known = [embedded.to(pair.target[0][0].dtype)]
        for number, near in enumerate(self.near):
            y = _states(pair.target[number], rotaries[1][number], None)
            features = torch.cat([*known, *(x[i] for i in near)], 1)
            self.equations[number].add(features[skip:], y[skip:])
        tokens = max(0, pair.target[0][0].shape[2] - skip)
        self.examples += tokens
        return tokens

    def solve(self, rotaries: tuple[Sequence[Rotary], Sequence[Rotary]]) -> Fitted:
        chosen = [self._choose(number) for number in range(self.target.layers)]
        settings = self.settings
        spec = BridgeSpec(
            self.source,
            self.target,
            tuple(
                tuple(self.near[n][i] for i in places)
                for n, places in enumerate(chosen)
            ),
            settings.kind,
            settings.rank,
            settings.width,
            settings.embeddings,
            self._dim,
        )
        with torch.random.fork_rng():
            # What a gated map starts from: the same for every fit of the same sums.
            torch.manual_seed(0)
            bridge = Bridge(spec, *rotaries)
        if self._table is not None:
            bridge.take_embeddings(self._table)
        shares = []
        for number, places in enumerate(chosen):
            part = self._part(number, places)
            fitted = part.solve(settings.ridge, settings.rank, _KEYS_AND_VALUES)
            shares.append(part.explained(fitted, _KEYS_AND_VALUES))
            _start(bridge.maps[number], fitted)
        keys, values = zip(*shares, strict=True)
        return Fitted(bridge, keys, values, self.examples)

    def _choose(self, number: int) -> list[int]:
        """Greedily, the places among the nearest layers that explain most."""
        chosen: list[int] = []
        while len(chosen) < min(self.settings.layers, len(self.near[number])):
            rest = [i for i in range(len(self.near[number])) if i not in chosen]
            chosen.append(max(rest, key=lambda i: self._gain(number, [*chosen, i])))
        return sorted(chosen)

    def _gain(self, number: int, places: list[int]) -> float:
        part = self._part(number, places)
        fitted = part.solve(self.settings.ridge)
        return sum(part.explained(fitted, _KEYS_AND_VALUES))

    def _part(self, number: int, places: list[int]) -> NormalEquations:
        width = 2 * self.source.width
        columns = [self.known + p * width + i for p in places for i in range(width)]
        return self.equations[number].of_features([*range(self.known), *columns])


def _start(layer: torch.nn.Module, fitted: LinearMap) -> None:
    assert isinstance(layer, LinearLayer | GatedLayer)
    layer.start_from(fitted)


def _states(
    layer: tuple[torch.Tensor, torch.Tensor],
    rotary: Rotary,
    alignment: Alignment | None,
) -> torch.Tensor:
    """Keys without positions, and values, of the target's tokens side by side."""
    keys, values = layer[0][0], layer[1][0]
    keys = rotary.unrotate(keys, torch.arange(keys.shape[1], device=keys.device))
    if alignment is not None:
        keys, values = alignment.apply(keys), alignment.apply(values)
    flat = [states.transpose(0, 1).flatten(1) for states in (keys, values)]
    return torch.cat(flat, 1)


def _nearest(number: int, layers: int, sources: int, wanted: int) -> list[int]:
    """The `wanted` source layers whose depth is most like that of layer `number`."""
    depth = (number + 0.5) / layers
    order = sorted(range(sources), key=lambda i: abs((i + 0.5) / sources - depth))
    return sorted(order[:wanted])
