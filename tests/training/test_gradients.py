"""Gradients in fp64: equal for all ways of computing them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from prefillshare.kv.identity import ModelId
from prefillshare.training.data import Example
from prefillshare.training.learner import checkpoint_activations
from prefillshare.training.objective import ResponseScores
from prefillshare.training.packing import pack
from prefillshare.training.padded import OneByOne, score_padded
from prefillshare.training.prefixes import PrefixStore
from prefillshare.training.schemes.base import Scheme, score
from prefillshare.training.schemes.cached import Cached
from prefillshare.training.schemes.icarus import Icarus
from prefillshare.training.schemes.one_row import OnePass, Own
from prefillshare.training.schemes.recompute import Recompute
from tests.conftest import make_decoder
from tests.training.examples import UNITS, group
from tests.training.makers import activated_decoder, full_decoder

EXACT: Any = {"rtol": 0, "atol": 1e-10}


def gradients(
    scheme: Scheme, model: Any, examples: tuple[Example, ...]
) -> dict[str, torch.Tensor]:
    """Of the mean loss, by parameter."""
    model.zero_grad()
    torch.autograd.backward(score(scheme, model, pack(examples)).loss_sum())
    return {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


def assert_same_gradients(
    mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]
) -> None:
    assert mine.keys() == theirs.keys()
    assert any(grad.abs().max() > 1e-3 for grad in mine.values())
    for name, grad in mine.items():
        torch.testing.assert_close(grad, theirs[name], **EXACT)


@pytest.mark.parametrize("unit", UNITS)
def test_cached_and_one_pass_have_the_same_gradients(
    tiny_model: PreTrainedModel, tiny_id: ModelId, unit: str
) -> None:
    examples = group(unit)
    cached = gradients(
        Cached(tiny_model), make_decoder(tiny_model, tiny_id).model, examples
    )
    activated = activated_decoder(tiny_model, tiny_id).model
    assert_same_gradients(cached, gradients(OnePass(), activated, examples))


@pytest.mark.parametrize("unit", UNITS)
def test_packed_and_padded_have_the_same_gradients(
    tiny_model: PreTrainedModel, tiny_id: ModelId, unit: str
) -> None:
    examples, model = group(unit), full_decoder(tiny_model, tiny_id).model
    packed = gradients(Cached(tiny_model), model, examples)
    model.zero_grad()
    scores = score_padded(tiny_model, model, examples)
    torch.autograd.backward(scores.loss_sum())
    padded = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert_same_gradients(packed, padded)


def test_one_by_one_equals_packed(
    tiny_model: PreTrainedModel, tiny_id: ModelId
) -> None:
    examples, model = group("shared_context"), full_decoder(tiny_model, tiny_id).model
    packed = gradients(Cached(tiny_model), model, examples)
    assert_same_gradients(packed, gradients(OneByOne(tiny_model), model, examples))
    own = gradients(Own(), model, examples)
    assert_same_gradients(own, gradients(OneByOne(None), model, examples))


SCHEMES: dict[str, Callable[[PreTrainedModel], Scheme]] = {
    "cached": Cached,
    "own": lambda _: Own(),
    "icarus": Icarus,
    "recompute": lambda base: Recompute(base, 1, 2),
    "recompute from the ids on": lambda base: Recompute(base, 0, 1),
    "one pass": lambda _: OnePass(),
}


def counted_layers(model: torch.nn.Module) -> list[str]:
    """Grows by the layer's name every time that one is computed."""
    calls: list[str] = []
    for name, module in model.named_modules():
        if name.endswith(".self_attn"):
            module.register_forward_pre_hook(lambda *_, n=name: calls.append(n))
    return calls


@pytest.mark.parametrize(
    ("scheme", "method"),
    # Only a LoRA adapter can be switched off, as one pass does.
    [
        (s, m)
        for s in SCHEMES
        for m in ("lora", "full")
        if (s, m) != ("one pass", "full")
    ],
)
def test_checkpointed_activations_have_the_same_gradients(
    tiny_model: PreTrainedModel, tiny_id: ModelId, scheme: str, method: str
) -> None:
    """Each layer that has gradients is computed twice, and nothing else changes."""
    make = make_decoder if method == "lora" else full_decoder
    if scheme == "one pass":
        make = activated_decoder
    examples = group("shared_context")
    model = make(tiny_model, tiny_id).model.train()
    calls = counted_layers(model)
    plain = gradients(SCHEMES[scheme](tiny_model), model, examples)
    once = Counter(calls)
    calls.clear()
    checkpoint_activations(model)
    checkpointed = gradients(SCHEMES[scheme](tiny_model), model, examples)
    assert_same_gradients(plain, checkpointed)
    assert once.total() >= tiny_model.config.num_hidden_layers
    assert Counter(calls) == once + once


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_checkpointed_prefill_module_has_the_same_gradients(
    tiny_model: PreTrainedModel, tiny_id: ModelId, method: str
) -> None:
    """Joint tuning: module and decoder, both with gradients and checkpointed."""
    make = make_decoder if method == "lora" else full_decoder
    examples = group("conversation")
    module = make(tiny_model, tiny_id).model.train()
    decoder = make(tiny_model, tiny_id).model.train()
    scheme = Cached(module, train_prefill=True)
    both = torch.nn.ModuleList([module, decoder])

    def of_both() -> dict[str, torch.Tensor]:
        both.zero_grad()
        gradients(scheme, decoder, examples)
        named = both.named_parameters()
        return {n: p.grad.clone() for n, p in named if p.grad is not None}

    calls = counted_layers(both)
    plain, once = of_both(), Counter(calls)
    calls.clear()
    checkpoint_activations(module)
    checkpoint_activations(decoder)
    assert_same_gradients(plain, of_both())
    assert len(once) == 2 * tiny_model.config.num_hidden_layers
    assert Counter(calls) == once + once


def test_a_trained_prefill_gets_gradients_through_the_cache(
    tiny_model: PreTrainedModel, tiny_id: ModelId
) -> None:
    """Prefill and decoder of equal weights: their gradients sum to own prefill's."""
    examples = group("independent")
    prefill = full_decoder(tiny_model, tiny_id).model
    decoder = full_decoder(tiny_model, tiny_id).model
    read = gradients(Cached(prefill, train_prefill=True), decoder, examples)
    written = {n: p.grad for n, p in prefill.named_parameters() if p.grad is not None}
    own = gradients(Own(), full_decoder(tiny_model, tiny_id).model, examples)
    total = {n: read[n] + written.get(n, torch.zeros_like(read[n])) for n in read}
    assert_same_gradients(total, own)


def test_without_gradients_the_frozen_prefill_gets_none(
    tiny_model: PreTrainedModel, tiny_id: ModelId
) -> None:
    prefill = full_decoder(tiny_model, tiny_id).model
    gradients(
        Cached(prefill), make_decoder(tiny_model, tiny_id).model, group("independent")
    )
    assert all(p.grad is None for p in prefill.parameters())


def test_a_stored_prefix_gives_the_same_scores(
    tiny_model: PreTrainedModel, tiny_id: ModelId
) -> None:
    model, packed = (
        make_decoder(tiny_model, tiny_id).model,
        pack(group("shared_context")),
    )
    store = PrefixStore(1 << 20)
    scheme = Cached(tiny_model, store)
    results: list[ResponseScores] = []
    with torch.no_grad():
        results = [score(scheme, model, packed) for _ in range(2)]
    assert (store.hits, store.misses) == (1, 1)
    assert torch.equal(results[0].logits, results[1].logits)
