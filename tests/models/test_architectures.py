"""Windows and recurrent states: the same numbers whichever way a prompt was read.

Everything is fp64 and within 1e-10, but for the float32 recurrence of `qwen3_5`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel

from prefillshare.errors import UnsupportedModelError
from prefillshare.kv.cache import KVCache
from prefillshare.kv.checkpoints import CheckpointStore
from prefillshare.models.decoder import Decoder
from prefillshare.models.prefill import CheckpointedPrefill, PrefillModule
from prefillshare.models.tiny import Architecture
from tests.architectures import HYBRID, SLIDING, TOKENS, assert_close, tensors, tiny
from tests.architectures import one_thread as one_thread
from tests.conftest import make_decoder

pytestmark = pytest.mark.usefixtures("one_thread")
ALL = [*SLIDING, *HYBRID]
NO_STOP: frozenset[int] = frozenset()
BRANCH = random.Random(1).choices(range(4, 260), k=20)
every = pytest.mark.parametrize("architecture", ALL)
hybrids = pytest.mark.parametrize("architecture", HYBRID)


def generate_monolithic(model: PreTrainedModel, ids: list[int], n: int) -> list[int]:
    """Greedy tokens by whole forward passes without any cache."""
    ids = list(ids)
    for _ in range(n):
        with torch.no_grad():
            logits = model(torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
    return ids[-n:]


def generate(decoder: Decoder, cache: KVCache, ids: list[int], n: int) -> list[int]:
    return list(decoder.generate(cache, ids, max_tokens=n, stop_ids=NO_STOP))


def untrained_decoder(architecture: Architecture) -> Decoder:
    """A decoder whose adapter does nothing, so that it is the base itself."""
    made = make_decoder(tiny(architecture).model, tiny(architecture).model_id)
    for parameter in made.model.parameters():
        if parameter.requires_grad:
            parameter.data.zero_()
    return made


@every
@pytest.mark.parametrize("chunk", [1, 7, 16, 52])
def test_chunked_equals_whole(architecture: Architecture, chunk: int) -> None:
    model, band = tiny(architecture).model, tiny(architecture).band
    whole = PrefillModule(model).prefill(TOKENS)
    chunked = PrefillModule(model, chunk_tokens=chunk).prefill(TOKENS)
    assert_close(chunked, whole, band)


@every
@pytest.mark.parametrize("prefix", [1, 16, 40, 53])
def test_resumed_equals_whole_and_leaves_the_past_alone(
    architecture: Architecture, prefix: int
) -> None:
    module = PrefillModule(tiny(architecture).model)
    past = module.prefill(TOKENS[:prefix])
    before = [tensor.clone() for tensor in tensors(past)]
    resumed = module.prefill(TOKENS, past)
    assert_close(resumed, module.prefill(TOKENS), tiny(architecture).band)
    torch.testing.assert_close(tensors(past), before, rtol=0, atol=0)


@every
@pytest.mark.parametrize("boundary", [52, 40])
def test_decoding_from_a_cache_equals_whole_forward_passes(
    architecture: Architecture, boundary: int
) -> None:
    """A remainder of one token takes the models' path for steps, a longer one not."""
    model, band = tiny(architecture).model, tiny(architecture).band
    decoder = untrained_decoder(architecture)
    cache = PrefillModule(model, chunk_tokens=9).prefill(TOKENS[:boundary])
    with torch.no_grad():
        whole = model(torch.tensor([TOKENS]), use_cache=False).logits[0, -1]
    logits = decoder._step(TOKENS[boundary:], cache.to_transformers())
    torch.testing.assert_close(logits, whole, rtol=0, atol=band)
    tokens = generate(decoder, cache, TOKENS[boundary:], 12)
    assert tokens == generate_monolithic(model, TOKENS, 12)


@every
def test_decoders_leave_the_cache_as_it_is(architecture: Architecture) -> None:
    model, model_id = tiny(architecture).model, tiny(architecture).model_id
    cache = PrefillModule(model).prefill(TOKENS[:-1])
    before = [tensor.clone() for tensor in tensors(cache)]
    decoders = [make_decoder(model, model_id, seed=seed) for seed in (1, 2)]
    first = [generate(decoder, cache, TOKENS[-1:], 9) for decoder in decoders]
    again = [generate(decoder, cache, TOKENS[-1:], 9) for decoder in decoders]
    assert first == again
    assert first[0] != first[1]
    torch.testing.assert_close(tensors(cache), before, rtol=0, atol=0)


@pytest.mark.parametrize("architecture", SLIDING)
@pytest.mark.parametrize("cut", [5, 30])
def test_a_cache_cut_anywhere_serves_a_prompt_that_branches_off(
    architecture: Architecture, cut: int
) -> None:
    """Also where a cache trimmed to the window would have forgotten the tokens."""
    module = PrefillModule(tiny(architecture).model)
    past = module.prefill(TOKENS).slice(0, cut)
    branch = TOKENS[:cut] + BRANCH
    assert_close(module.prefill(branch, past), module.prefill(branch), 1e-10)


@pytest.mark.parametrize("architecture", SLIDING)
def test_the_window_counts(architecture: Architecture) -> None:
    """The whole cache is kept, yet the sliding layers do not look at all of it."""
    model = tiny(architecture).model
    trimmed = DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.tensor([TOKENS[:-1]]), past_key_values=trimmed, use_cache=True)
        logits = model(
            torch.tensor([TOKENS[-1:]]), past_key_values=trimmed, use_cache=True
        ).logits[0, -1]
    cache = PrefillModule(model).prefill(TOKENS[:-1])
    decoder = untrained_decoder(architecture)
    ours = decoder._step(TOKENS[-1:], cache.to_transformers())
    torch.testing.assert_close(ours, logits, rtol=0, atol=1e-10)


@hybrids
def test_the_sink_gets_stretches_that_join_to_the_whole(
    architecture: Architecture,
) -> None:
    module = PrefillModule(tiny(architecture).model, chunk_tokens=20)
    parts: list[KVCache] = []
    whole = module.prefill(TOKENS, sink=lambda part, _: parts.append(part))
    assert [part.tokens for part in parts] == [20, 20, 13]
    assert_close(KVCache.concatenate(parts), whole, band=0.0)


@hybrids
def test_checkpoints_are_caches_of_their_prefixes(architecture: Architecture) -> None:
    module = PrefillModule(tiny(architecture).model, chunk_tokens=20)
    kept: list[KVCache] = []
    past = module.prefill(TOKENS[:10])
    module.prefill(TOKENS, past, checkpoints=(5, 10, 33, 53, 60), keep=kept.append)
    assert [cache.tokens for cache in kept] == [33, 53]
    for cache in kept:
        expected = module.prefill(TOKENS[: cache.tokens])
        assert_close(cache, expected, tiny(architecture).band)


@contextmanager
def widths_of(module: PrefillModule) -> Iterator[list[int]]:
    """Filled with the number of tokens of each forward pass."""
    widths: list[int] = []
    hook = module.model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["input_ids"].shape[1]),
        with_kwargs=True,
    )
    yield widths
    hook.remove()


@every
def test_a_prompt_resumes_from_its_longest_checkpoint(
    architecture: Architecture,
) -> None:
    module = PrefillModule(tiny(architecture).model)
    prefill = CheckpointedPrefill(module, CheckpointStore(10**8), every_tokens=25)
    prefill.prefill(b"root", TOKENS, boundaries=(30, 44))
    branches = {n: TOKENS[:n] + BRANCH for n in (52, 43, 29, 20)}
    expected = {n: module.prefill(ids) for n, ids in branches.items()}
    computed = {}
    for n, ids in branches.items():
        with widths_of(module) as widths:
            cache = prefill.prefill(b"root", ids)
        assert_close(cache, expected[n], tiny(architecture).band)
        computed[n] = sum(widths)
    # From 50, 30, 25 and, there being none, from the beginning.
    assert computed == {52: 22, 43: 33, 29: 24, 20: 40}
    with widths_of(module) as widths:
        prefill.prefill(b"another root", TOKENS)
    assert sum(widths) == len(TOKENS)


@hybrids
def test_a_checkpoint_is_no_part_of_what_runs_on_from_it(
    architecture: Architecture,
) -> None:
    module = PrefillModule(tiny(architecture).model)
    prefill = CheckpointedPrefill(module, CheckpointStore(10**8))
    first = prefill.prefill(b"root", TOKENS[:40], boundaries=(40,))
    before = [tensor.clone() for tensor in tensors(first)]
    decoder = untrained_decoder(architecture)
    generate(decoder, prefill.prefill(b"root", TOKENS[:40]), TOKENS[40:41], 9)
    prefill.prefill(b"root", TOKENS)
    again = prefill.prefill(b"root", TOKENS[:40])
    torch.testing.assert_close(tensors(again), before, rtol=0, atol=0)


@hybrids
def test_a_cut_past_is_refused(architecture: Architecture) -> None:
    cache = PrefillModule(tiny(architecture).model).prefill(TOKENS)
    with pytest.raises(UnsupportedModelError, match="cannot be cut after 40"):
        cache.slice(0, 40)


def test_an_interval_below_one_token_is_refused() -> None:
    module = PrefillModule(tiny("lfm2").model)
    with pytest.raises(ValueError, match="every_tokens must be >= 1 or None, got 0"):
        CheckpointedPrefill(module, CheckpointStore(0), every_tokens=0)
