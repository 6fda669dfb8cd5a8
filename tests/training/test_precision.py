"""The precision of matrix products is that of the run that was opened last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from prefillshare.training.precision import in_full_precision
from prefillshare.training.settings import RunSettings
from prefillshare.training.workshop import Workshop


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def test_a_run_sets_it_and_the_next_one_sets_it_back(tiny_directory: Path) -> None:
    for asked in ({"matmul_precision": "medium"}, {}):
        settings = RunSettings(model=tiny_directory, output=Path("unused"), **asked)
        Workshop.open(settings, torch.device("cpu"))
        expected = asked.get("matmul_precision", "highest")
        assert torch.get_float32_matmul_precision() == expected


def attended(states: list[torch.Tensor]) -> list[torch.Tensor]:
    """Output and gradients of one attention."""
    leaves = [each.clone().requires_grad_() for each in states]
    seen = []

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_float32_matmul_precision())
        return scaled_dot_product_attention(q, k, v, is_causal=True)

    output = in_full_precision(attention, *leaves)
    assert seen == ["highest"]
    output.square().sum().backward()  # type: ignore[no-untyped-call]
    return [output.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def test_attention_is_in_full_precision_there_and_back() -> None:
    """To the bit, where the processor has products in bfloat16 and where it has not."""
    states = [torch.randn(1, 3, 40, 16) for _ in range(3)]
    full = attended(states)
    torch.set_float32_matmul_precision("medium")
    coarse = attended(states)
    assert len(full) == len(coarse) == 4
    assert all(map(torch.equal, full, coarse))
    assert torch.get_float32_matmul_precision() == "medium"


def test_products_before_attention_keep_their_precision_in_the_backward_pass() -> None:
    states = torch.randn(1, 3, 40, 16, requires_grad=True)
    passing = []
    torch.set_float32_matmul_precision("medium")
    projected = states * 2.0
    output = in_full_precision(
        scaled_dot_product_attention, projected, projected, projected
    )

    def note(_: torch.Tensor) -> None:
        passing.append(torch.get_float32_matmul_precision())

    for each in (projected, output):
        each.register_hook(note)  # type: ignore[no-untyped-call]
    output.sum().backward()  # type: ignore[no-untyped-call]
    assert passing == ["medium", "medium"]


def test_a_frozen_cache_gets_no_gradient() -> None:
    torch.set_float32_matmul_precision("medium")
    query, frozen = torch.randn(2, 1, 3, 40, 16)
    seen: list[bool] = []

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen.extend(each.requires_grad for each in (q, k, v))
        return scaled_dot_product_attention(q, k, v)

    in_full_precision(attention, query.requires_grad_(), frozen, frozen)
    assert seen == [True, False, False]
