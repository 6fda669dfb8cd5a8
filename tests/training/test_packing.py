"""The prefix tree: nothing lost, nothing computed twice, nobody sees too much."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from prefillshare.models.prompt import Prompt
from prefillshare.training.data import Example
from prefillshare.training.packing import Packed, pack
from tests.training.examples import UNITS, group

# A small alphabet, so that prompts share prefixes and contain one another.
prompts = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=8).map(tuple),
    min_size=1,
    max_size=6,
)


def packed_of(ids: list[tuple[int, ...]]) -> Packed:
    return pack(
        [Example(Prompt((*each, 9), len(each), len(each)), (7, 8)) for each in ids]
    )


@given(prompts)
def test_every_decoder_piece_sees_exactly_its_own_prompt(
    ids: list[tuple[int, ...]],
) -> None:
    packed = packed_of(ids)
    flat = [token for piece in packed.prefill.pieces for token in piece.ids]
    for prompt, piece in zip(ids, packed.read, strict=True):
        seen = [token for low, high in piece.sees for token in flat[low:high]]
        assert tuple(seen) == prompt


@given(prompts)
def test_every_distinct_prefix_is_computed_once(ids: list[tuple[int, ...]]) -> None:
    distinct = {prompt[:n] for prompt in ids for n in range(1, len(prompt) + 1)}
    assert packed_of(ids).prefill.tokens == len(distinct)


@given(prompts)
def test_a_token_sees_the_prefix_that_it_ends(ids: list[tuple[int, ...]]) -> None:
    packed = packed_of(ids)
    flat = torch.tensor([t for p in packed.prefill.pieces for t in p.ids])
    positions = packed.prefill.positions(torch.device("cpu"))[0]
    distinct = {prompt[:n] for prompt in ids for n in range(1, len(prompt) + 1)}
    seen = set()
    for row, position in zip(packed.prefill.visible(0), positions, strict=True):
        assert int(row.sum()) == int(position) + 1
        seen.add(tuple(flat[row].tolist()))
    assert seen == distinct


def test_the_turns_of_a_conversation_share_all_but_their_ends() -> None:
    examples = group("conversation")
    packed = pack(examples)
    longest = max(len(example.prefill_ids) for example in examples)
    # Every earlier turn's prompt is a prefix of the last one's.
    assert packed.prefill.tokens == longest


def test_examples_of_all_kinds_lie_in_one_row() -> None:
    everything = [example for name in UNITS for example in group(name)]
    packed = pack(everything)
    assert len(packed.read) == len(everything)
    assert packed.prefill.tokens < sum(len(e.prefill_ids) for e in everything)
