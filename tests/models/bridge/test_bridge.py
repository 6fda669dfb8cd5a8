"""Bridges between caches: exact where they copy, right where a right map exists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from prefillshare.errors import BridgeError, CheckpointError, IdentityError
from prefillshare.kv.identity import ModelId
from prefillshare.kv.layout import KVLayout
from prefillshare.models.bridge.bridge import Bridge, Layers
from prefillshare.models.bridge.fit import FitSettings, Pair, fit_bridge
from prefillshare.models.bridge.rotary import Rotary, rotaries_of
from prefillshare.models.bridge.spans import Alignment
from prefillshare.models.bridge.spec import BridgeSpec, CacheShape
from prefillshare.models.bridge.storage import (
    bridge_digest,
    bridge_origin,
    load_bridge,
    save_bridge,
)
from prefillshare.models.bridge.target import TargetTokens
from prefillshare.models.prefill import PrefillModule
from tests.bridges import align, identity

SOURCE, TARGET = CacheShape(4, 3, 8), CacheShape(2, 1, 16)
SOURCE_ROTARIES = [Rotary(torch.logspace(0, -2, 4))] * 4
TARGET_ROTARIES = [Rotary(torch.logspace(0, -3, 8)), Rotary(torch.logspace(0, -4, 8))]
IDS = (ModelId("a" * 64), ModelId("b" * 64))
# What target layers 0 and 1 really are made of.
SOURCES = ((0, 1), (2, 3))


def cache(shape: CacheShape, tokens: int, seed: int = 0) -> Layers:
    generator = torch.Generator().manual_seed(seed)
    size = (1, shape.kv_heads, tokens, shape.head_dim)

    def draw() -> torch.Tensor:
        return torch.randn(size, dtype=torch.float64, generator=generator)

    return tuple((draw(), draw()) for _ in range(shape.layers))


def tokens(count: int, alignment: Alignment | None = None) -> TargetTokens:
    return TargetTokens.prompt([7 * i % 5 for i in range(count)], alignment)


def mapped(bridge: Bridge, source: Layers, aligned: Alignment | None = None) -> Layers:
    """A whole prompt's cache."""
    read = source[0][0].shape[2]
    count = read if aligned is None else len(aligned.tokens)
    made: Layers = bridge(source, torch.arange(read), tokens(count, aligned))
    return made


def true_bridge() -> Bridge:
    """A linear bridge with weights of its own."""
    bridge = Bridge(
        BridgeSpec(SOURCE, TARGET, SOURCES, "linear"), SOURCE_ROTARIES, TARGET_ROTARIES
    ).double()
    generator = torch.Generator().manual_seed(9)
    for parameter in bridge.parameters():
        parameter.data = torch.randn(
            parameter.shape, dtype=torch.float64, generator=generator
        )
    return bridge


def fitted(kind: Any = "linear", rank: int | None = None, **changes: Any) -> Bridge:
    """Fitted to what `true_bridge` makes of random caches."""
    truth = true_bridge()
    pairs = []
    for seed in range(4):
        source = cache(SOURCE, 40, seed)
        made = mapped(truth, source)
        layers = tuple((k.detach(), v.detach()) for k, v in made)
        pairs.append(Pair(source, layers, tokens(40)))
    settings = FitSettings(kind=kind, rank=rank, ridge=1e-10, nearest=4, **changes)
    rotaries = (SOURCE_ROTARIES, TARGET_ROTARIES)
    found = fit_bridge(pairs, (SOURCE, TARGET), rotaries, settings)
    assert found.examples == 4 * 39
    return found.bridge.double()


def assert_alike(found: Layers, wanted: Layers, band: float) -> None:
    for mine, theirs in zip(found, wanted, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=band)


def test_a_copy_is_the_source_to_the_bit(tiny_model: PreTrainedModel) -> None:
    shape = CacheShape.of(KVLayout.from_config(tiny_model.config))
    turns = rotaries_of(tiny_model)
    source = tuple(
        (k[None], v[None])
        for k, v in PrefillModule(tiny_model).prefill([5, 6, 7]).layers
    )
    bridge = Bridge(BridgeSpec(shape, shape, ((0,), (1,))), turns, turns)
    found = mapped(bridge, source, identity(3))
    for mine, theirs in zip(found, source, strict=True):
        assert torch.equal(mine[0], theirs[0]) and torch.equal(mine[1], theirs[1])
    assert bridge.parameter_count == 0


def test_half_the_layers_can_be_copied() -> None:
    half = CacheShape(2, 3, 8)
    bridge = Bridge(
        BridgeSpec(SOURCE, half, ((1,), (3,))), SOURCE_ROTARIES, SOURCE_ROTARIES
    )
    source = cache(SOURCE, 5)
    found = mapped(bridge, source)
    assert found[0] is source[1] and found[1] is source[3]


def test_copied_keys_turn_to_where_their_tokens_stand() -> None:
    """The second of three source tokens is left out: the third moves up."""
    one = CacheShape(1, 3, 8)
    turn = SOURCE_ROTARIES[0]
    bridge = Bridge(BridgeSpec(one, one, ((0,),)), [turn], [turn])
    ((keys, values),) = cache(one, 3)
    two = Alignment(torch.tensor([[0], [2]]), torch.ones(2, 1))
    ((moved, kept),) = mapped(bridge, ((keys, values),), two)
    plain = turn.unrotate(keys[0], torch.arange(3))[:, [0, 2]]
    torch.testing.assert_close(moved[0], turn.rotate(plain, torch.arange(2)))
    assert torch.equal(kept[0], values[0][:, [0, 2]])


def test_a_fit_finds_the_layers_and_the_map() -> None:
    bridge = fitted()
    assert bridge.spec.sources == SOURCES
    source = cache(SOURCE, 30, seed=77)
    wanted = mapped(true_bridge(), source)
    assert_alike(mapped(bridge, source), wanted, 1e-4)


def test_tokens_of_another_tokenizer_are_mapped_as_means() -> None:
    bridge, source = fitted(), cache(SOURCE, 4, seed=3)
    fine, coarse = [(0, 1), (1, 2), (2, 3), (3, 4)], [(0, 2), (2, 4)]
    aligned = align(fine, coarse)
    found = mapped(bridge, source, aligned)
    assert [k.shape for k, _ in found] == [(1, 1, 2, 16)] * 2
    means = tuple(
        (
            SOURCE_ROTARIES[0].rotate(
                aligned.apply(SOURCE_ROTARIES[0].unrotate(k[0], torch.arange(4))),
                torch.arange(2),
            )[None],
            aligned.apply(v),
        )
        for k, v in source
    )
    assert_alike(found, mapped(bridge, means), 1e-12)


def test_a_gated_bridge_starts_as_the_linear_one() -> None:
    source = cache(SOURCE, 6)
    wanted = mapped(fitted(), source)
    gated = fitted("gated")
    assert_alike(mapped(gated, source), wanted, 1e-6)
    assert gated.parameter_count > fitted().parameter_count


def test_a_low_rank_has_fewer_parameters_and_all_of_them_learn() -> None:
    bridge = fitted(rank=4)
    assert bridge.parameter_count < fitted().parameter_count / 2
    loss = sum(
        x.square().sum() for pair in mapped(bridge, cache(SOURCE, 6)) for x in pair
    )
    assert isinstance(loss, torch.Tensor)
    torch.autograd.backward(loss)
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in bridge.parameters()
    )


@pytest.mark.parametrize("kind", ["linear", "gated"])
def test_a_saved_bridge_is_the_same_and_knows_its_models(
    kind: Any, tmp_path: Path
) -> None:
    bridge, source = fitted(kind), cache(SOURCE, 6)
    save_bridge(bridge, tmp_path / "bridge", IDS)
    loaded = load_bridge(tmp_path / "bridge", IDS)
    assert_alike(mapped(loaded, source), mapped(bridge, source), 0)
    with pytest.raises(IdentityError, match="the source of the bridge"):
        load_bridge(tmp_path / "bridge", (IDS[1], IDS[1]))
    before = bridge_digest(tmp_path / "bridge")
    next(bridge.parameters()).data[0] += 1e-3
    save_bridge(bridge, tmp_path / "bridge", IDS)
    assert bridge_digest(tmp_path / "bridge") != before
    (tmp_path / "bridge" / "bridge.safetensors").write_bytes(b"1234")
    with pytest.raises(CheckpointError, match="fit it again"):
        load_bridge(tmp_path / "bridge", IDS)


def test_a_bridge_fitted_again_has_the_origin_but_not_the_digest(
    tmp_path: Path,
) -> None:
    pair = ModelId("a" * 64), ModelId("b" * 64)
    for name, seed in (("first", 1), ("again", 2)):
        torch.manual_seed(seed)
        bridge = true_bridge()
        for parameter in bridge.parameters():
            parameter.data += 1e-7 * torch.randn_like(parameter)
        save_bridge(bridge, tmp_path / name, pair, "made of these")
    first, again = (tmp_path / name for name in ("first", "again"))
    assert bridge_digest(first) != bridge_digest(again)
    assert bridge_origin(first) == bridge_origin(again) == "made of these"
    save_bridge(true_bridge(), tmp_path / "unknown", pair)
    assert bridge_origin(tmp_path / "unknown") == bridge_digest(tmp_path / "unknown")


def test_no_bridge_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="prefillshare bridge fit"):
        load_bridge(tmp_path)
    wrong: list[Any] = [[], {"pair": ["a"]}]
    for about in wrong:
        (tmp_path / "bridge.json").write_text(json.dumps(about))
        with pytest.raises(CheckpointError, match="is not a bridge's"):
            load_bridge(tmp_path)


def test_a_damaged_bridge_is_said_so(tmp_path: Path) -> None:
    save_bridge(true_bridge(), tmp_path, (ModelId("a" * 64), ModelId("b" * 64)))
    weights = tmp_path / "bridge.safetensors"
    weights.write_bytes(weights.read_bytes()[:-20])
    for use in (load_bridge, bridge_digest):
        with pytest.raises(CheckpointError, match="cannot be read.*fit it again"):
            use(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match="cannot be read.*fit it again"):
        bridge_digest(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sources": ((0,),)}, "has 2 layers, but sources are named for 1"),
        ({"sources": ((0,), (4,))}, r"name layers \[0, 4\] of 4"),
        ({"sources": ((0,), ())}, "name at least one"),
        ({"sources": ((0,), (1,)), "kind": "copy"}, "3 x 8 into 1 x 16; use `linear`"),
        (
            {"sources": SOURCES, "embeddings": 2},
            "should see 2 embeddings of no numbers",
        ),
        (
            {"sources": SOURCES, "kind": "copy", "embeddings": 2, "embedding_dim": 4},
            "kind `copy` sees no embeddings",
        ),
    ],
)
def test_a_spec_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BridgeError, match=message):
        BridgeSpec(SOURCE, TARGET, **{"kind": "linear", **fields})


def test_too_little_text_is_refused() -> None:
    pair = Pair(cache(SOURCE, 20), cache(TARGET, 20), tokens(20))
    rotaries = (SOURCE_ROTARIES, TARGET_ROTARIES)
    with pytest.raises(BridgeError, match="19 tokens cannot fit maps of 96 features"):
        fit_bridge([pair], (SOURCE, TARGET), rotaries, FitSettings())
