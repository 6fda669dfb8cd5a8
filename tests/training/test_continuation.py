"""Losses behind a boundary: what is recovered, and by distance."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from prefillshare.kv.layout import KVLayout
from prefillshare.models.bridge.bridge import Bridge
from prefillshare.models.bridge.fit import Pair
from prefillshare.models.bridge.rotary import rotaries_of
from prefillshare.models.bridge.spans import Alignment
from prefillshare.models.bridge.spec import BridgeSpec, CacheShape
from prefillshare.models.bridge.target import TargetTokens
from prefillshare.models.prefill import PrefillModule
from prefillshare.training.bridges.continuation import (
    Continuation,
    by_stretch,
    continuation,
    recovered,
)

IDS = list(range(10, 90))


def text(own: float, made: float, bare: float, tokens: int = 80) -> Continuation:
    return Continuation(*(torch.full((tokens,), x) for x in (own, made, bare)))


def test_recovered_is_a_share_of_own_prefills_gain() -> None:
    assert recovered([text(1.0, 2.0, 5.0)]) == pytest.approx(0.75)
    assert recovered([text(1.0, 6.0, 5.0)]) == pytest.approx(-0.25)
    assert recovered([text(5.0, 2.0, 5.0)]) is None
    # Only what is near the boundary counts.
    far = text(1.0, 2.0, 5.0)
    far.bridged[64:] = 1000.0
    assert recovered([far]) == pytest.approx(0.75)


def test_stretches_are_means_over_all_texts() -> None:
    texts = [text(1.0, 2.0, 3.0, 20), text(3.0, 4.0, 5.0, 18)]
    first, second = by_stretch(texts)
    assert (first["from"], first["to"], first["tokens"]) == (1, 16, 32)
    assert first["own_prefill"] == pytest.approx(2.0)
    assert second["tokens"] == 6
    assert second["bridged"] == pytest.approx((4 * 2.0 + 2 * 4.0) / 6)


def test_a_copied_cache_is_own_prefill_and_no_context_keeps_one_token(
    tiny_model: PreTrainedModel,
) -> None:
    shape = CacheShape.of(KVLayout.from_config(tiny_model.config))
    spec = BridgeSpec(shape, shape, tuple((i,) for i in range(shape.layers)))
    tables = rotaries_of(tiny_model), rotaries_of(tiny_model)
    cache = PrefillModule(tiny_model).prefill(IDS)
    layers = tuple((k[None], v[None]) for k, v in cache.layers)
    pair = Pair(layers, layers, TargetTokens.prompt(IDS))
    found = continuation(tiny_model, Bridge(spec, *tables), pair, IDS)
    with torch.no_grad():
        whole = tiny_model(input_ids=torch.tensor([IDS])).logits[0]
        bare = tiny_model(input_ids=torch.tensor([[IDS[0], *IDS[39:]]])).logits[0]
    for losses, logits in (
        (found.own_prefill, whole[39:-1]),
        (found.bridged, whole[39:-1]),
        (found.no_context, bare[1:-1]),
    ):
        expected = torch.nn.functional.cross_entropy(
            logits.float(), torch.tensor(IDS[40:]), reduction="none"
        )
        torch.testing.assert_close(losses, expected, rtol=0, atol=1e-5)


def test_an_alignment_is_cut_with_its_text(tiny_model: PreTrainedModel) -> None:
    """Each target token is two source tokens: twice as many of those are read."""
    shape = CacheShape.of(KVLayout.from_config(tiny_model.config))
    spec = BridgeSpec(shape, shape, tuple((i,) for i in range(shape.layers)))
    bridge = Bridge(spec, rotaries_of(tiny_model), rotaries_of(tiny_model))
    source = PrefillModule(tiny_model).prefill(IDS)
    target = PrefillModule(tiny_model).prefill(IDS[:40])
    rows = Alignment.of([((2 * i, 0.5), (2 * i + 1, 0.5)) for i in range(40)])

    def losses(tail: float) -> torch.Tensor:
        layers = tuple((k[None].clone(), v[None].clone()) for k, v in source.layers)
        for keys, values in layers:
            keys[:, :, 40:] += tail
            values[:, :, 40:] += tail
        own = tuple((k[None], v[None]) for k, v in target.layers)
        pair = Pair(layers, own, TargetTokens.prompt(IDS[:40], rows))
        return continuation(tiny_model, bridge, pair, IDS[:40]).bridged

    # Half of 40 target tokens are 40 source tokens; what stands behind is not read.
    assert torch.equal(losses(0.0), losses(100.0))
