"""The loss is on response tokens: never on a prompt's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from prefillshare.errors import PromptLossError
from prefillshare.kv.identity import ModelId
from prefillshare.models.prompt import Prompt
from prefillshare.training.data import Example
from prefillshare.training.objective import ResponsePlaces, ResponseScores
from prefillshare.training.packing import pack
from prefillshare.training.padded import OneByOne
from prefillshare.training.schemes.base import score
from prefillshare.training.schemes.cached import Cached
from prefillshare.training.schemes.icarus import Icarus
from prefillshare.training.schemes.one_row import OnePass, Own
from prefillshare.training.schemes.recompute import Recompute
from tests.conftest import make_decoder
from tests.training.examples import UNITS, group
from tests.training.makers import activated_decoder

CPU = torch.device("cpu")
PROMPT_TOKEN, RESPONSE_TOKEN = 1, 2


def example(prompt: int, boundary: int, response: int) -> Example:
    """Of these sizes; every token says whether it is prompt or response."""
    laid_out = Prompt((PROMPT_TOKEN,) * prompt, boundary, boundary)
    return Example(laid_out, (RESPONSE_TOKEN,) * response)


sizes = st.tuples(st.integers(1, 6), st.integers(0, 5), st.integers(1, 5)).filter(
    lambda size: size[1] < size[0]
)


@given(st.lists(sizes, min_size=1, max_size=4))
def test_places_predict_every_response_token_and_no_prompt_token(
    wanted: list[tuple[int, int, int]],
) -> None:
    examples = [example(*size) for size in wanted]
    places = ResponsePlaces.of(examples, CPU)
    # What follows each token that the decoder reads.
    following = [[*each.decoder_ids[1:], each.response[-1]] for each in examples]
    flat = [token for each in following for token in each]
    at = [i for i, token in enumerate(flat) if token == RESPONSE_TOKEN]
    assert places.at.tolist() == at
    assert set(places.labels.tolist()) == {RESPONSE_TOKEN}


@pytest.mark.parametrize("boundary", [-1, 4, 5, 9])
def test_a_response_that_does_not_start_behind_its_boundary_is_refused(
    boundary: int,
) -> None:
    wrong = example(prompt=4, boundary=boundary, response=2)
    message = (
        f"response of example 1 starts at token 4, and its boundary is at {boundary}:"
    )
    with pytest.raises(PromptLossError, match=message):
        ResponsePlaces.of([example(4, 3, 2), wrong], CPU)


def test_a_wrong_example_is_refused_before_a_loss_is_computed(
    tiny_model: PreTrainedModel, tiny_id: ModelId
) -> None:
    decoder = make_decoder(tiny_model, tiny_id).model
    packed = pack([example(4, 3, 2), example(4, 4, 2)])
    for scheme in (Cached(tiny_model), Own(), OneByOne(tiny_model)):
        with pytest.raises(PromptLossError):
            score(scheme, decoder, packed)


SCHEMES: dict[str, Any] = {
    "cached": Cached,
    "own": lambda _: Own(),
    "one_pass": lambda _: OnePass(),
    "one_by_one": OneByOne,
    "icarus": lambda base: Icarus(base, None),
    "recompute": lambda base: Recompute(base, 1, 2),
}


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", SCHEMES)
def test_the_loss_has_no_gradient_where_a_prompt_token_would_be_predicted(
    tiny_model: PreTrainedModel, tiny_id: ModelId, name: str, unit: str
) -> None:
    """Seen at the last hidden states: R places of all tokens have a gradient."""
    examples = group(unit, "suffix")
    maker = activated_decoder if name == "one_pass" else make_decoder
    decoder = maker(tiny_model, tiny_id).model
    hidden: list[torch.Tensor] = []

    def keep(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        output.retain_grad()
        hidden.append(output)

    hook = decoder.get_base_model().model.norm.register_forward_hook(keep)
    scores = score(SCHEMES[name](tiny_model), decoder, pack(examples))
    hook.remove()
    torch.autograd.backward(scores.loss_sum())
    used: list[bool] = []
    for states in hidden:
        # None of a pass that only leaves keys and values.
        grad = torch.zeros_like(states) if states.grad is None else states.grad
        used += (grad[0] != 0).any(-1).tolist()
    # The decoder's tokens end what it reads, whatever a scheme puts before them.
    read = [
        i >= len(each.prompt.remainder) - 1
        for each in examples
        for i in range(len(each.decoder_ids))
    ]
    assert sum(read) == sum(len(each.response) for each in examples)
    assert used == [False] * (len(used) - len(read)) + read


def test_likelihoods_of_coarse_logits_are_not_coarse() -> None:
    """bfloat16 counts to 256 and no further."""
    tokens, vocabulary = 600, 50
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(tokens, vocabulary, generator=generator).bfloat16()
    labels = torch.randint(vocabulary, (tokens,), generator=generator)
    owner = torch.zeros(tokens, dtype=torch.long)
    coarse = ResponseScores(logits, labels, owner)
    fine = ResponseScores(logits.double(), labels, owner)
    assert coarse.nll().item() == pytest.approx(fine.nll().item(), rel=1e-5)
    assert coarse.loss_sum().item() == pytest.approx(fine.loss_sum().item(), rel=1e-5)
