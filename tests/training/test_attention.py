"""Attention piece by piece: equal to the dense mask's, gradients too, and cheaper."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from prefillshare.kv.identity import ModelId
from prefillshare.models.prompt import Prompt
from prefillshare.training.attention import PackedMask, attend, packed_mask
from prefillshare.training.data import Example
from prefillshare.training.packing import Packed, Row, pack
from prefillshare.training.schemes.base import score
from prefillshare.training.schemes.cached import Cached
from tests.conftest import make_decoder

PROMPTS = st.lists(
    st.lists(st.integers(0, 1), min_size=2, max_size=12).map(tuple),
    min_size=2,
    max_size=6,
)


def example(prompt: tuple[int, ...]) -> Example:
    at = len(prompt) - 1
    return Example(Prompt(prompt, boundary=at, shared_tokens=at), (5, 6, 7))


def rows_of(packed: Packed) -> list[tuple[Row, int]]:
    """Every row that training reads, with the tokens before it."""
    read = packed.decoder_row(range(len(packed.examples)))
    return [
        (packed.prefill, 0),
        (read, packed.prefill.tokens),
        (Row((*packed.prefill.pieces, *read.pieces)), 0),
    ]


def attended(
    mask: torch.Tensor, states: list[torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The output and the gradients of queries, keys and values."""
    inputs = [each.clone().requires_grad_() for each in states]
    module = torch.nn.Module()
    module.num_key_value_groups = 2  # type: ignore[assignment]
    query, key, value = inputs
    output, _ = attend(module, query, key, value, mask, scaling=0.5)
    torch.autograd.backward((output * output.detach().cos()).sum())
    return output.detach(), [each.grad for each in inputs if each.grad is not None]


@settings(deadline=None, max_examples=60)
@given(prompts=PROMPTS, seed=st.integers(0, 9))
def test_pieces_and_dense_mask_agree(prompts: list[tuple[int, ...]], seed: int) -> None:
    for row, past in rows_of(pack([example(prompt) for prompt in prompts])):
        if not row.tokens:
            continue
        visible = row.visible(past)
        generator = torch.Generator().manual_seed(seed)
        states = [
            torch.randn(1, heads, tokens, 8, dtype=torch.float64, generator=generator)
            for heads, tokens in ((4, row.tokens), *[(2, past + row.tokens)] * 2)
        ]
        mask = packed_mask(visible, row, past, worth_it=0.0)
        assert isinstance(mask, PackedMask)
        pieces, grads = attended(mask, states)
        dense, expected = attended(visible[None, None], states)
        torch.testing.assert_close(pieces, dense, rtol=0, atol=1e-12)
        for mine, theirs in zip(grads, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_independent_prompts_go_piece_by_piece_and_a_shared_one_at_once() -> None:
    apart = [tuple(range(40 * i, 40 * i + 40)) for i in range(4)]
    together = [(*range(400), 500 + i, 0) for i in range(4)]
    for prompts, kind in ((apart, PackedMask), (together, torch.Tensor)):
        _, (row, past), _ = rows_of(pack([example(prompt) for prompt in prompts]))
        assert type(packed_mask(row.visible(past), row, past)) is kind


def test_short_pieces_go_at_once_where_starting_them_costs_more() -> None:
    """As on a GPU: any device but the processor."""
    apart = [tuple(range(n, n + 8)) for n in range(0, 64, 8)]
    ((row, past), *_) = rows_of(pack([example(prompt) for prompt in apart]))
    visible = row.visible(past)
    assert isinstance(packed_mask(visible, row, past), PackedMask)
    assert not isinstance(packed_mask(visible.to("meta"), row, past), PackedMask)


def test_a_model_reads_independent_prompts_piece_by_piece(
    tiny_model: PreTrainedModel, tiny_id: ModelId
) -> None:
    """No attention call of either model is given another example's keys."""
    examples = [example(tuple(range(20 * i, 20 * i + 20))) for i in range(4)]
    decoder = make_decoder(tiny_model, tiny_id).model
    lengths: set[int] = set()
    kernel = torch.nn.functional.scaled_dot_product_attention

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(
            self,
            func: object,
            types: object,
            args: tuple[object, ...] = (),
            kwargs: dict[str, object] | None = None,
        ) -> object:
            if func is kernel:
                lengths.add(args[1].shape[2])  # type: ignore[attr-defined]
            return func(*args, **(kwargs or {}))  # type: ignore[operator]

    with Watch():
        score(Cached(tiny_model), decoder, pack(examples))
    assert lengths == {19, 19 + 3}
