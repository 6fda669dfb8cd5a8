"""Every scheme in fp64 against inference turn by turn, and against each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel

from prefillshare.errors import ConfigError
from prefillshare.kv.identity import ModelId
from prefillshare.models.decoder import Decoder
from prefillshare.models.prefill import PrefillModule
from prefillshare.models.prompt import Boundary
from prefillshare.training.data import Example
from prefillshare.training.packing import pack
from prefillshare.training.rows import ReadCache
from prefillshare.training.schemes.base import score
from prefillshare.training.schemes.cached import Cached
from prefillshare.training.schemes.icarus import Icarus
from prefillshare.training.schemes.one_row import OnePass, Own
from prefillshare.training.schemes.recompute import Recompute
from tests.conftest import make_decoder
from tests.training.examples import UNITS, group
from tests.training.makers import activated_decoder, full_decoder

EXACT: Any = {"rtol": 0, "atol": 1e-10}


def turn_by_turn(
    past: DynamicCache, example: Example, step: Callable[[list[int], Any], torch.Tensor]
) -> torch.Tensor:
    """Logits `[T, V]` for each response token, one forward pass a token."""
    ids, rows = list(example.prompt.remainder), []
    for token in example.response:
        rows.append(step(ids, past))
        ids = [token]
    return torch.stack(rows)


def expected_shared(
    model: PreTrainedModel, decoder: Decoder, examples: tuple[Example, ...]
) -> torch.Tensor:
    module = PrefillModule(model)
    return torch.cat(
        [
            turn_by_turn(
                module.prefill(e.prefill_ids).to_transformers(), e, decoder._step
            )
            for e in examples
        ]
    )


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("boundary", ["last_token", "suffix"])
@pytest.mark.parametrize("unit", UNITS)
def test_cached_equals_turn_by_turn(
    tiny_model: PreTrainedModel,
    tiny_id: ModelId,
    boundary: Boundary,
    unit: str,
    method: str,
) -> None:
    make = make_decoder if method == "lora" else full_decoder
    decoder, examples = make(tiny_model, tiny_id), group(unit, boundary)
    with torch.no_grad():
        scores = score(Cached(tiny_model), decoder.model, pack(examples))
    wanted = expected_shared(tiny_model, decoder, examples)
    torch.testing.assert_close(scores.logits, wanted, **EXACT)


@pytest.mark.parametrize("unit", UNITS)
def test_one_pass_equals_turn_by_turn(
    tiny_model: PreTrainedModel, tiny_id: ModelId, unit: str
) -> None:
    decoder, examples = make_decoder(tiny_model, tiny_id), group(unit)
    activated = activated_decoder(tiny_model, tiny_id)
    with torch.no_grad():
        scores = score(OnePass(), activated.model, pack(examples))
    wanted = expected_shared(tiny_model, decoder, examples)
    torch.testing.assert_close(scores.logits, wanted, **EXACT)


def test_one_pass_without_the_switch_is_refused(
    tiny_model: PreTrainedModel, tiny_id: ModelId
) -> None:
    plain = make_decoder(tiny_model, tiny_id)
    with pytest.raises(ConfigError, match="alora_invocation_tokens"):
        score(OnePass(), plain.model, pack(group("independent")))


@pytest.mark.parametrize("unit", UNITS)
def test_own_equals_a_plain_forward_of_each_example(
    tiny_model: PreTrainedModel, tiny_id: ModelId, unit: str
) -> None:
    decoder, examples = make_decoder(tiny_model, tiny_id), group(unit)
    with torch.no_grad():
        scores = score(Own(), decoder.model, pack(examples))
        rows = []
        for e in examples:
            ids = torch.tensor([[*e.prompt.token_ids, *e.response]])
            logits = decoder.model(ids).logits[0]
            rows.append(logits[len(e.prompt.token_ids) - 1 : -1])
    torch.testing.assert_close(scores.logits, torch.cat(rows), **EXACT)


def test_icarus_equals_decoding_with_both_models(
    tiny_model: PreTrainedModel, tiny_id: ModelId
) -> None:
    """Every token runs through the base, then the decoder reads the base's cache."""
    decoder, examples = make_decoder(tiny_model, tiny_id), group("conversation")
    module = PrefillModule(tiny_model)

    def step(ids: list[int], past: DynamicCache) -> torch.Tensor:
        start = past.get_seq_length()
        row = torch.tensor([ids])
        tiny_model(row, past_key_values=past, use_cache=True)
        held: list[Any] = past.layers
        layers = tuple((layer.keys, layer.values) for layer in held)
        visible = torch.ones(len(ids), start + len(ids), dtype=torch.bool).tril(start)
        logits = decoder.model(
            row,
            past_key_values=ReadCache(layers, own=False),
            attention_mask=visible[None, None],
            position_ids=torch.arange(start, start + len(ids))[None],
        ).logits
        return torch.as_tensor(logits[0, -1])

    with torch.no_grad():
        scores = score(Icarus(tiny_model), decoder.model, pack(examples))
        wanted = torch.cat(
            [
                turn_by_turn(module.prefill(e.prefill_ids).to_transformers(), e, step)
                for e in examples
            ]
        )
    torch.testing.assert_close(scores.logits, wanted, **EXACT)
    shared = expected_shared(tiny_model, decoder, examples)
    assert not torch.allclose(scores.logits, shared)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_recomputing_all_layers_is_own_prefill_none_is_shared_and_some_is_neither(
    tiny_model: PreTrainedModel, tiny_id: ModelId, method: str
) -> None:
    make = make_decoder if method == "lora" else full_decoder
    decoder = make(tiny_model, tiny_id).model
    packed = pack(group("shared_context"))
    for parameter in tiny_model.parameters():
        assert not parameter.requires_grad
    with torch.no_grad():
        own = score(Own(), decoder, packed).logits
        shared = score(Cached(tiny_model), decoder, packed).logits
        upper = score(Recompute(tiny_model, 1, 2), decoder, packed).logits
        every = score(Recompute(tiny_model, 0, 2), decoder, packed).logits
        none = score(Recompute(tiny_model, 1, 1), decoder, packed).logits
    torch.testing.assert_close(every, own, **EXACT)
    assert torch.equal(none, shared)
    assert not torch.allclose(upper, own)
    assert not torch.allclose(upper, shared)


def test_recomputed_layers_are_the_decoders_on_the_bases_hidden_states(
    tiny_model: PreTrainedModel, tiny_id: ModelId
) -> None:
    """Layer 1's keys by hand: the decoder's projection of the base's layer-0 output."""
    decoder = full_decoder(tiny_model, tiny_id).model
    example = group("independent")[0]
    ids = torch.tensor([example.prefill_ids])
    with torch.no_grad():
        hidden = tiny_model(ids, output_hidden_states=True).hidden_states[1]
        past = PrefillModule(tiny_model).prefill(example.prefill_ids).to_transformers()
        second: Any = past.layers[1]
        wrong = second.values.clone()
        layer = decoder.model.layers[1]
        values = layer.self_attn.v_proj(layer.input_layernorm(hidden))
        second.values = values.view(1, -1, 2, 16).transpose(1, 2)
        keys = layer.self_attn.k_proj(layer.input_layernorm(hidden))
        keys = keys.view(1, -1, 2, 16).transpose(1, 2)
        cos, sin = decoder.model.rotary_emb(hidden, torch.arange(ids.shape[1])[None])
        half = torch.cat([-keys[..., 8:], keys[..., :8]], -1)
        second.keys = keys * cos[:, None] + half * sin[:, None]
        assert not torch.allclose(second.values, wrong)

        def step(ids: list[int], state: DynamicCache) -> torch.Tensor:
            output = decoder(torch.tensor([ids]), past_key_values=state)
            return torch.as_tensor(output.logits[0, -1])

        wanted = turn_by_turn(past, example, step)
        packed = pack([example])
        scores = score(Recompute(tiny_model, 1, 2), decoder, packed)
    torch.testing.assert_close(scores.logits, wanted, **EXACT)


def test_layers_that_do_not_exist_cannot_be_recomputed(
    tiny_model: PreTrainedModel,
) -> None:
    with pytest.raises(ConfigError, match="layers 1 to 3 of 2"):
        Recompute(tiny_model, 1, 3)
