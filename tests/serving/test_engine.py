"""The prefill engine: prefix cache over blocks, without impurity or leak."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from transformers import PreTrainedModel

from prefillshare.errors import CapacityError
from prefillshare.kv.identity import ModelId
from prefillshare.kv.layout import KVFormat
from prefillshare.models.prefill import PrefillModule
from prefillshare.serving.engine import Prefilled, PrefillEngine
from tests.conftest import make_decoder

IDS = random.Random(1).choices(range(4, 260), k=80)


@pytest.fixture
def engine(tiny_model: PreTrainedModel, tiny_id: ModelId) -> Iterator[PrefillEngine]:
    engine = PrefillEngine(
        PrefillModule(tiny_model), tiny_id, KVFormat("float64", 16), 12
    )
    yield engine
    engine.pool.check_integrity()
    engine.index.check_integrity()


def assert_caches_equal(engine: PrefillEngine, prefilled: Prefilled, n: int) -> None:
    expected = engine.module.prefill(IDS[:n])
    for (k, v), (x, y) in zip(
        engine.cache(prefilled).layers, expected.layers, strict=True
    ):
        torch.testing.assert_close(k, x, rtol=0, atol=1e-10)
        torch.testing.assert_close(v, y, rtol=0, atol=1e-10)


def test_a_second_agent_finds_the_shared_blocks(engine: PrefillEngine) -> None:
    first = engine.prefill(IDS[:40])
    second = engine.prefill(IDS[:50])
    assert (first.cached_tokens, second.cached_tokens) == (0, 32)
    assert first.blocks[:2] == second.blocks[:2]
    # The partial third block is private to each.
    assert set(first.blocks[2:]).isdisjoint(second.blocks)
    assert_caches_equal(engine, second, 50)
    assert engine.counters.computed_tokens == 40 + 18


def test_decoding_leaves_shared_blocks_as_they_are(
    engine: PrefillEngine, tiny_model: PreTrainedModel, tiny_id: ModelId
) -> None:
    prefilled = engine.prefill(IDS[:47])
    before = [engine.pool.digest(block) for block in prefilled.blocks]
    cache = engine.cache(prefilled)
    for seed in (1, 2):
        decoder = make_decoder(tiny_model, tiny_id, seed=seed)
        out = decoder.generate(cache, IDS[47:48], max_tokens=20, stop_ids=frozenset())
        assert len(list(out)) == 20
    assert [engine.pool.digest(block) for block in prefilled.blocks] == before


def test_tenants_do_not_see_each_other(engine: PrefillEngine) -> None:
    engine.release(engine.prefill(IDS[:48], tenant="a"))
    assert engine.prefill(IDS[:48], tenant="b").cached_tokens == 0
    assert engine.prefill(IDS[:48], tenant="a").cached_tokens == 48


def test_old_prefixes_make_room_but_held_ones_stay(engine: PrefillEngine) -> None:
    held = engine.prefill(IDS[:80])
    for start in range(1, 6):
        engine.release(engine.prefill(IDS[start : start + 64]))
    assert engine.prefill(IDS[:80]).blocks[:5] == held.blocks[:5]


def test_a_prompt_that_does_not_fit_leaves_nothing_behind(
    engine: PrefillEngine,
) -> None:
    held = [engine.prefill(IDS[:80]), engine.prefill(IDS[1:80])]
    free = engine.pool.free_blocks
    with pytest.raises(CapacityError, match=f"{free} are free"):
        engine.prefill(IDS[2:80])
    assert engine.pool.free_blocks == free
    for prefilled in held:
        engine.release(prefilled)
    assert engine.prefill(IDS[2:80]).cached_tokens == 0
