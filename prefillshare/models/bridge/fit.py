"""Fitting a bridge in closed form: which layers tell most, and the ridge maps.

Both models read the same texts; one pass over their caches leaves sums from which any
choice of layers and any penalty follows.

Shapes: T target tokens, F features (all heads of all source layers), O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from prefillshare.errors import BridgeError
from prefillshare.models.bridge.bridge import Bridge, BridgeSpec, CacheShape, Layers
from prefillshare.models.bridge.maps import GatedLayer, LinearLayer, MapKind
from prefillshare.models.bridge.ridge import LinearMap, NormalEquations
from prefillshare.models.bridge.rotary import Rotary
from prefillshare.models.bridge.spans import Alignment


@dataclass(frozen=True)
class Pair:
    """Two caches of one text: what a bridge reads, and what it should make.

    Both hold positions from 0 on; `alignment` is of the target's tokens.
    """

    source: Layers
    target: Layers
    alignment: Alignment | None = None


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
    """

    layers: int = 2
    ridge: float = 0.01
    nearest: int = 8
    kind: MapKind = "linear"
    rank: int | None = None
    width: int = 64
    skip: int = 1


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
    on_pair: Callable[[int], object] | None = None,
) -> Fitted:
    """Fit the maps from source to target, both given as `(source, target)`.

    Args:
        on_pair: called with the number of tokens that each text gave.

    Raises:
        BridgeError: there are fewer tokens than features.
    """
    source, target = shapes
    sums = _Sums(source, target, settings)
    for pair in pairs:
        tokens = sums.add(pair, rotaries)
        if on_pair is not None:
            on_pair(tokens)
    needed = settings.layers * source.width
    if sums.examples <= needed:
        raise BridgeError(
            f"{sums.examples} tokens cannot fit maps of {needed} features; give more "
            "text, or fewer layers"
        )
    return sums.solve(rotaries)


class _Sums:
    """Normal equations of every target layer over its nearest source layers."""

    def __init__(
        self, source: CacheShape, target: CacheShape, settings: FitSettings
    ) -> None:
        self.source, self.target, self.settings = source, target, settings
        self.examples = 0
        wanted = min(settings.nearest, source.layers)
        self.near = [
            _nearest(number, target.layers, source.layers, wanted)
            for number in range(target.layers)
        ]
        features = wanted * source.width
        self.equations = [
            tuple(NormalEquations(features, target.width) for _ in range(2))
            for _ in range(target.layers)
        ]

    def add(
        self, pair: Pair, rotaries: tuple[Sequence[Rotary], Sequence[Rotary]]
    ) -> int:
        """Count one text in; returns how many tokens that was."""
        skip = self.settings.skip
        x = [
            _flat_states(pair.source[i], rotaries[0][i], pair.alignment)
            for i in range(self.source.layers)
        ]
        for number, near in enumerate(self.near):
            y = _flat_states(pair.target[number], rotaries[1][number], None)
            for which in range(2):
                features = torch.cat([x[i][which] for i in near], 1)[skip:]
                self.equations[number][which].add(features, y[which][skip:])
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
        )
        with torch.random.fork_rng():
            # What a gated map starts from: the same for every fit of the same sums.
            torch.manual_seed(0)
            bridge = Bridge(spec, *rotaries)
        explained: tuple[list[float], list[float]] = ([], [])
        for number, places in enumerate(chosen):
            for which, maps in enumerate((bridge.keys, bridge.values)):
                part = self._part(number, which, places)
                fitted = part.solve(settings.ridge, settings.rank)
                explained[which].append(part.explained(fitted))
                _start(maps[number], fitted)
        return Fitted(bridge, tuple(explained[0]), tuple(explained[1]), self.examples)

    def _choose(self, number: int) -> list[int]:
        """Greedily, the places among the nearest layers that explain most."""
        chosen: list[int] = []
        while len(chosen) < min(self.settings.layers, len(self.near[number])):
            rest = [i for i in range(len(self.near[number])) if i not in chosen]
            chosen.append(max(rest, key=lambda i: self._gain(number, [*chosen, i])))
        return sorted(chosen)

    def _gain(self, number: int, places: list[int]) -> float:
        parts = [self._part(number, which, places) for which in range(2)]
        return sum(part.explained(part.solve(self.settings.ridge)) for part in parts)

    def _part(self, number: int, which: int, places: list[int]) -> NormalEquations:
        width = self.source.width
        columns = [place * width + i for place in places for i in range(width)]
        return self.equations[number][which].of_features(columns)


def _start(layer: torch.nn.Module, fitted: LinearMap) -> None:
    assert isinstance(layer, LinearLayer | GatedLayer)
    layer.start_from(fitted)


def _flat_states(
    layer: tuple[torch.Tensor, torch.Tensor],
    rotary: Rotary,
    alignment: Alignment | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys without positions, and values, of the target's tokens: `[T, F]` each."""
    keys, values = layer[0][0], layer[1][0]
    keys = rotary.unrotate(keys, torch.arange(keys.shape[1], device=keys.device))
    if alignment is not None:
        keys, values = alignment.apply(keys), alignment.apply(values)
    return keys.transpose(0, 1).flatten(1), values.transpose(0, 1).flatten(1)


def _nearest(number: int, layers: int, sources: int, wanted: int) -> list[int]:
    """The `wanted` source layers whose depth is most like that of layer `number`."""
    depth = (number + 0.5) / layers
    order = sorted(range(sources), key=lambda i: abs((i + 0.5) / sources - depth))
    return sorted(order[:wanted])
