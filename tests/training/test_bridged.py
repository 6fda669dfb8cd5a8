"""Decoders of another model and tokenizer, in fp64 against inference turn by turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prefillshare.errors import DataError
from prefillshare.kv.cache import KVCache
from prefillshare.kv.layout import KVLayout
from prefillshare.models.bridge.bridge import Bridge, attach_bridge
from prefillshare.models.bridge.prompt import lay_out_across
from prefillshare.models.bridge.rotary import rotaries_of
from prefillshare.models.bridge.spans import Alignment
from prefillshare.models.bridge.spec import BridgeSpec, CacheShape
from prefillshare.models.bridge.target import TargetTokens
from prefillshare.models.loading import load_model
from prefillshare.models.prefill import PrefillModule
from prefillshare.models.prompt import Boundary, Prompt, SourceTokens
from prefillshare.models.tiny import save_tiny_model, tiny_tokenizer
from prefillshare.training.data import Example, Tokenisation
from prefillshare.training.packing import pack
from prefillshare.training.prefixes import PrefixStore
from prefillshare.training.schemes.base import score
from prefillshare.training.schemes.bridged import Bridged
from prefillshare.training.schemes.cached import Cached
from tests.bridges import random_bridge
from tests.evals.merging import merging_tokenizer
from tests.training.examples import UNITS, group
from tests.words import word_tokenizer

EXACT: Any = {"rtol": 0, "atol": 1e-10}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    """Three layers of two kv heads x 24 dimensions, of which some see a window."""
    directory = save_tiny_model(
        tmp_path_factory.mktemp("target"),
        architecture="mistral",
        layers=3,
        hidden=96,
        seed=5,
        window=24,
        dtype=torch.float64,
    )
    return load_model(directory, torch.float64)


@pytest.fixture
def decoder(tiny_model: PreTrainedModel, target: PreTrainedModel) -> PreTrainedModel:
    """`target` behind a bridge from the tiny model, whose maps are random."""
    layers = ((0,), (0, 1), (1,))
    changes = {"kind": "gated", "rank": 8, "width": 4, "embeddings": 3}
    bridge = random_bridge(tiny_model, target, layers, **changes)
    attach_bridge(target, bridge)
    return target


def across(boundary: Boundary) -> Tokenisation:
    return Tokenisation(tiny_tokenizer(), boundary, 4096, decoder=word_tokenizer())


def alone(prefill: Any, decoder: Any, example: Example) -> torch.Tensor:
    """Logits `[R, V]`: one prompt prefilled, bridged, and answered token by token."""
    prompt, source = example.prompt, example.prompt.source
    assert source is not None
    cache = PrefillModule(prefill).prefill(source.token_ids)
    bridged = decoder.bridge(
        tuple((k[None], v[None]) for k, v in cache.layers),
        torch.arange(len(source.token_ids)),
        TargetTokens.prompt(example.prefill_ids, Alignment.of(source.shares)),
    )
    past = KVCache(tuple((k[0], v[0]) for k, v in bridged)).to_transformers()
    rows, ids = [], list(prompt.remainder)
    for token in example.response:
        output = decoder(input_ids=torch.tensor([ids]), past_key_values=past)
        rows.append(output.logits[0, -1])
        ids = [token]
    return torch.stack(rows)


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("boundary", ["last_token", "suffix"])
@pytest.mark.parametrize("unit", UNITS)
def test_a_packed_pass_equals_each_prompt_alone(
    tiny_model: PreTrainedModel,
    decoder: PreTrainedModel,
    unit: str,
    boundary: Boundary,
    stored: bool,
) -> None:
    examples = across(boundary).group(UNITS[unit]())
    store = PrefixStore(1 << 24) if stored else None
    with torch.no_grad():
        found = score(Bridged(tiny_model, store), decoder, pack(examples)).logits
        wanted = torch.cat([alone(tiny_model, decoder, e) for e in examples])
    torch.testing.assert_close(found, wanted, **EXACT)


def test_prompts_that_differ_only_at_the_seam_are_kept_apart(
    tiny_model: PreTrainedModel, decoder: PreTrainedModel
) -> None:
    """The decoder's tokens agree; the last of them is made of other source tokens."""

    def example(last: int) -> Example:
        source = SourceTokens((7, 8, last), (((0, 1.0),), ((1, 0.5), (2, 0.5))))
        return Example(Prompt((4, 5, 6), 2, 2, source), (9, 3))

    examples = (example(10), example(11))
    assert [len(piece.ids) for piece in pack(examples).prefill.pieces] == [1, 1, 1]
    with torch.no_grad():
        found = score(Bridged(tiny_model), decoder, pack(examples)).logits
        wanted = torch.cat([alone(tiny_model, decoder, e) for e in examples])
    torch.testing.assert_close(found, wanted, **EXACT)


def test_the_bridge_learns_and_the_prefill_module_does_not(
    tiny_model: PreTrainedModel, decoder: PreTrainedModel
) -> None:
    examples = across("last_token").group(UNITS["shared_context"]())
    loss = score(Bridged(tiny_model), decoder, pack(examples)).loss_sum()
    torch.autograd.backward(loss)
    bridge = decoder.get_submodule("bridge")
    for name, parameter in bridge.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert all(parameter.grad is None for parameter in tiny_model.parameters())


def test_a_copy_between_equal_models_is_cache_conditioned_training(
    tiny_directory: Path, tiny_model: PreTrainedModel
) -> None:
    twin = load_model(tiny_directory, torch.float64)
    shape = CacheShape.of(KVLayout.from_config(twin.config))
    turns = rotaries_of(twin)
    spec = BridgeSpec(shape, shape, tuple((i,) for i in range(shape.layers)))
    attach_bridge(twin, Bridge(spec, turns, turns))
    packed = pack(group("shared_context"))
    with torch.no_grad():
        found = score(Bridged(tiny_model), twin, packed).logits
        assert torch.equal(found, score(Cached(tiny_model), twin, packed).logits)


MESSAGES = [{"role": "system", "content": "order 417: lamp"}]


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Any) -> str:
    return str(tokenizer.decode(list(ids)))


@pytest.mark.parametrize("boundary", ["last_token", "suffix"])
def test_both_tokenizers_read_the_same_text(boundary: Boundary) -> None:
    source, words = tiny_tokenizer(), word_tokenizer()
    prompt = lay_out_across(source, words, MESSAGES, "ship", boundary)
    assert prompt.token_ids[0] == words.bos_token_id
    assert prompt.source is not None
    read = decoded(source, prompt.source.token_ids)
    whole = "<|system|>order 417: lamp<|end|><|user|>ship<|end|><|assistant|>"
    assert whole.startswith(read)
    # A token of the source may reach over the boundary, and none is missing before it.
    if boundary == "suffix":
        assert read == "<|system|>order 417: lamp<|end|>"
    else:
        assert read == whole
    assert len(prompt.source.shares) == prompt.boundary


def test_a_decoder_whose_tokenizer_merges_at_the_boundary_reads_that_text_itself() -> (
    None
):
    source, merging = tiny_tokenizer(), merging_tokenizer()
    messages = [{"role": "user", "content": "q xa"}]
    source.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}!{% endif %}"
    )
    prompt = lay_out_across(source, merging, messages, "bc it", "suffix")
    assert decoded(merging, prompt.merged) == "a"
    assert decoded(merging, prompt.remainder) == "abc it!"
    assert prompt.source is not None
    assert decoded(source, prompt.source.token_ids) == "q x"
    assert lay_out_across(source, merging, messages, "it", "suffix").merged == ()


def test_a_prompt_with_nothing_to_bridge_is_refused() -> None:
    with pytest.raises(DataError, match="at least one message"):
        lay_out_across(tiny_tokenizer(), word_tokenizer(), [], "ship", "suffix")
