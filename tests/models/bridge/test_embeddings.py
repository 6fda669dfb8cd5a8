"""Maps that also see which tokens stand there, by the decoder's own embeddings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prefillshare.errors import BridgeError, UnsupportedModelError
from prefillshare.kv.identity import ModelId
from prefillshare.models.bridge.bridge import Bridge, Layers
from prefillshare.models.bridge.fit import FitSettings, Pair, fit_bridge
from prefillshare.models.bridge.rotary import Rotary
from prefillshare.models.bridge.spec import BridgeSpec, CacheShape
from prefillshare.models.bridge.storage import load_bridge, save_bridge
from prefillshare.models.bridge.target import TargetTokens
from prefillshare.models.loading import embeddings_of, load_embeddings, load_model

SHAPE = CacheShape(2, 1, 8)
TURNS = [Rotary(torch.logspace(0, -2, 4))] * 2
TABLE = torch.randn(9, 5, dtype=torch.float64, generator=torch.manual_seed(3))
PAIR = (ModelId("a" * 64), ModelId("b" * 64))


def words(seed: int, count: int = 40) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 9, (count,), generator=generator).tolist()


def noise(seed: int, count: int = 40) -> Layers:
    generator = torch.Generator().manual_seed(seed)
    size = (2, 2, 1, 1, count, 8)
    drawn = torch.randn(size, dtype=torch.float64, generator=generator)
    return tuple((keys, values) for keys, values in drawn)


def spoken(ids: list[int]) -> Layers:
    """A cache that follows from each token and the one before it, and nothing else."""
    known = TargetTokens.prompt(ids).embedded(TABLE, 2)
    draw = torch.randn(10, 32, dtype=torch.float64, generator=torch.manual_seed(5))
    made = (known @ draw).view(len(ids), 4, 8).transpose(0, 1)
    at = torch.arange(len(ids))
    return tuple(
        (TURNS[i].rotate(made[[i]], at)[None], made[[2 + i]][None]) for i in range(2)
    )


def fitted(embeddings: int, layers: int) -> Bridge:
    pairs = [
        Pair(noise(i), spoken(words(i)), TargetTokens.prompt(words(i)))
        for i in range(6)
    ]
    settings = FitSettings(layers=layers, ridge=1e-9, embeddings=embeddings, skip=0)
    found = fit_bridge(pairs, (SHAPE, SHAPE), (TURNS, TURNS), settings, TABLE)
    return found.bridge.double()


@torch.no_grad()
def worst(bridge: Bridge) -> float:
    """How far the bridge is off on a text that it was not fitted to."""
    ids = words(99)
    made = bridge(noise(99), torch.arange(40), TargetTokens.prompt(ids))
    pairs = zip(made, spoken(ids), strict=True)
    return max(
        float((a - b).abs().max())
        for mine, theirs in pairs
        for a, b in zip(mine, theirs, strict=True)
    )


@pytest.mark.parametrize("layers", [0, 1])
def test_a_fit_finds_what_follows_from_a_token_and_the_one_before(layers: int) -> None:
    assert worst(fitted(2, layers)) < 1e-4
    # One embedding, or none, cannot know it.
    assert worst(fitted(1, layers)) > 0.5


def test_each_token_sees_those_before_it_in_its_own_prompt() -> None:
    """Two prompts `1 2` and `1 3` in one row: 3 stands behind 1."""
    row = TargetTokens(
        torch.tensor([1, 2, 3]), torch.tensor([0, 1, 1]), torch.tensor([-1, 0, 0])
    )
    seen = row.embedded(TABLE, 3)
    unit = TABLE / TABLE.square().mean(1, keepdim=True).sqrt()
    nothing = torch.zeros(5, dtype=torch.float64)
    for found, expected in (
        (seen[0], (unit[1], nothing, nothing)),
        (seen[1], (unit[2], unit[1], nothing)),
        (seen[2], (unit[3], unit[1], nothing)),
    ):
        torch.testing.assert_close(found, torch.cat(expected))


def test_the_embeddings_are_no_part_of_a_saved_bridge(tmp_path: Path) -> None:
    bridge = fitted(2, 1)
    assert bridge.parameter_count == 2 * (2 * 5 + 2 * 8 + 1) * 16
    save_bridge(bridge, tmp_path / "bridge", PAIR)
    loaded = load_bridge(tmp_path / "bridge", PAIR)
    with pytest.raises(BridgeError, match="reads the decoder's embeddings and has"):
        worst(loaded)
    with pytest.raises(
        BridgeError, match="embeddings of 5 numbers, the model's have 4"
    ):
        loaded.take_embeddings(TABLE[:, :4])
    loaded.take_embeddings(TABLE)
    assert worst(loaded) == worst(bridge)


def test_a_bridge_without_embeddings_takes_none() -> None:
    bridge = Bridge(BridgeSpec(SHAPE, SHAPE, ((0,), (1,)), "linear"), TURNS, TURNS)
    bridge.take_embeddings(TABLE)
    assert bridge.table is None


def test_embeddings_are_read_without_the_model(
    tiny_directory: Path, tmp_path: Path
) -> None:
    found = load_embeddings(tiny_directory, torch.float64)
    assert torch.equal(found, embeddings_of(load_model(tiny_directory, torch.float64)))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match="save the model as safetensors"):
        load_embeddings(tmp_path, torch.float64)
