"""Sliding-window and hybrid models through the schemes that training uses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prefillshare.errors import UnsupportedModelError
from prefillshare.kv.cache import empty_state
from prefillshare.kv.layout import KVLayout
from prefillshare.models.tiny import Architecture
from prefillshare.training.data import Example
from prefillshare.training.decoders import scheme_of
from prefillshare.training.packing import pack
from prefillshare.training.padded import OneByOne, needs_one_by_one
from prefillshare.training.schemes.base import Scheme, score
from prefillshare.training.schemes.cached import Cached
from prefillshare.training.schemes.icarus import Icarus
from prefillshare.training.schemes.one_row import OnePass, Own
from prefillshare.training.schemes.recompute import Recompute
from prefillshare.training.settings import CaseFiles, TrainSettings
from tests.architectures import HYBRID, SLIDING, tiny
from tests.conftest import make_decoder
from tests.training.examples import group
from tests.training.makers import activated_decoder


def turn_by_turn(model: Any, decoder: Any, example: Example) -> torch.Tensor:
    """Logits `[T, V]` for each response token, one forward pass a token."""
    state = empty_state(KVLayout.from_config(model.config))
    model(torch.tensor([example.prefill_ids]), past_key_values=state, use_cache=True)
    ids, rows = list(example.prompt.remainder), []
    for token in example.response:
        output = decoder(torch.tensor([ids]), past_key_values=state, use_cache=True)
        rows.append(output.logits[0, -1])
        ids = [token]
    return torch.stack(rows)


@pytest.mark.parametrize("architecture", [*SLIDING, *HYBRID])
def test_scored_as_served(architecture: Architecture) -> None:
    made = tiny(architecture)
    decoder = make_decoder(made.model, made.model_id).model
    examples = group("shared_context") + group("conversation")
    assert needs_one_by_one(made.model.config) == (architecture in HYBRID)
    scheme: Scheme = Cached(made.model)
    if architecture in HYBRID:
        scheme = OneByOne(made.model)
    with torch.no_grad():
        scores = score(scheme, decoder, pack(examples))
        wanted = [turn_by_turn(made.model, decoder, each) for each in examples]
    torch.testing.assert_close(scores.logits, torch.cat(wanted), rtol=0, atol=made.band)


SCHEMES: dict[str, Callable[[Any], Scheme]] = {
    "cached": Cached,
    "own": lambda _: Own(),
    "icarus": Icarus,
    "recompute": lambda base: Recompute(base, 1, 2),
    "one pass": lambda _: OnePass(),
}


@pytest.mark.parametrize("architecture", SLIDING)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_packed_equals_one_by_one(architecture: Architecture, scheme: str) -> None:
    """A window counts true positions, whatever else lies in the row."""
    made = tiny(architecture)
    make = activated_decoder if scheme == "one pass" else make_decoder
    decoder = make(made.model, made.model_id).model
    examples = group("shared_context") + group("conversation")
    how = SCHEMES[scheme](made.model)
    with torch.no_grad():
        together = score(how, decoder, pack(examples)).logits
        alone = [score(how, decoder, pack([each])).logits for each in examples]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=made.band)


@pytest.mark.parametrize(
    "asked",
    [
        {"prefill": "icarus"},
        {"prefill": "recompute", "recompute": (0, 1)},
        {"path": "one_pass"},
        {"gradient_checkpointing": True},
    ],
)
def test_recurrent_models_refuse_what_their_state_does_not_bear(
    asked: dict[str, Any],
) -> None:
    base = tiny(HYBRID[0]).model
    settings = TrainSettings(
        model=Path("hybrid"),
        output=Path("out"),
        task=CaseFiles(agent="shipping"),
        **asked,
    )
    with pytest.raises(UnsupportedModelError, match="has recurrent layers"):
        scheme_of(settings, base, None)
    plain = settings.model_copy(
        update={
            "prefill": "shared",
            "path": "cached",
            "recompute": None,
            "gradient_checkpointing": False,
        }
    )
    assert isinstance(scheme_of(plain, base, None), OneByOne)
