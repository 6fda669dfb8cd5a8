"""Ridge regression from sums, against dense solutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prefillshare.errors import DataError
from prefillshare.models.bridge.ridge import NormalEquations

X = torch.randn(200, 6, dtype=torch.float64, generator=torch.manual_seed(1)) + 0.7
TRUE = torch.randn(6, 4, dtype=torch.float64, generator=torch.manual_seed(2))
Y = X @ TRUE + 0.3 * torch.randn(200, 4, dtype=torch.float64) - 2


def sums(x: torch.Tensor = X, y: torch.Tensor = Y, parts: int = 7) -> NormalEquations:
    equations = NormalEquations(x.shape[1], y.shape[1])
    for each_x, each_y in zip(x.chunk(parts), y.chunk(parts), strict=True):
        equations.add(each_x, each_y)
    return equations


def test_without_a_penalty_it_is_least_squares() -> None:
    fitted = sums().solve(0.0)
    bordered = torch.cat([X, torch.ones(200, 1, dtype=torch.float64)], 1)
    wanted = np.linalg.lstsq(bordered.numpy(), Y.numpy(), rcond=None)[0]
    np.testing.assert_allclose(fitted.weight.numpy(), wanted[:6], atol=1e-10)
    np.testing.assert_allclose(fitted.bias.numpy(), wanted[6], atol=1e-10)


@pytest.mark.parametrize("ridge", [0.01, 1.0])
def test_with_a_penalty_it_is_the_dense_solution(ridge: float) -> None:
    centred = X - X.mean(0)
    penalty = ridge * centred.square().mean() * len(X)
    dense = torch.linalg.solve(
        centred.T @ centred + penalty * torch.eye(6, dtype=X.dtype),
        centred.T @ (Y - Y.mean(0)),
    )
    fitted = sums().solve(ridge)
    torch.testing.assert_close(fitted.weight, dense, rtol=0, atol=1e-10)
    # The bias is free: the mean is met.
    torch.testing.assert_close(fitted(X.mean(0)), Y.mean(0), rtol=0, atol=1e-10)


def test_how_the_examples_came_makes_no_difference() -> None:
    one, many = sums(parts=1).solve(0.1), sums(parts=50).solve(0.1)
    torch.testing.assert_close(one.weight, many.weight, rtol=0, atol=1e-12)


def test_a_low_rank_keeps_the_directions_that_matter() -> None:
    low = torch.outer(torch.arange(6.0), torch.arange(4.0)).double()
    y = X @ low + 0.001 * torch.randn(200, 4, dtype=torch.float64)
    equations = sums(X, y)
    fitted = equations.solve(0.0, rank=1)
    assert torch.linalg.matrix_rank(fitted.weight, rtol=1e-6) == 1
    assert equations.explained(fitted)[0] > 0.999
    worse = sums().solve(0.0, rank=1)
    assert sums().explained(worse) < sums().explained(sums().solve(0.0))


def test_what_is_explained_is_r_squared() -> None:
    fitted = sums().solve(0.05)
    left = (Y - fitted(X)).square().sum()
    wanted = 1 - left / (Y - Y.mean(0)).square().sum()
    (found,) = sums().explained(fitted)
    assert found == pytest.approx(float(wanted))
    halves = (slice(0, 2), slice(2, 4))
    for part, half in zip(sums().explained(fitted, 2), halves, strict=True):
        left = (Y - fitted(X))[:, half].square().sum()
        whole = (Y - Y.mean(0))[:, half].square().sum()
        assert part == pytest.approx(float(1 - left / whole))


def test_a_low_rank_is_shared_among_parts_whatever_their_size() -> None:
    """One direction each: without parts, both would go to the larger outputs."""
    loud, quiet = X[:, :2] * 1000, X[:, 2:4] * 0.001
    faint = torch.tensor([1, 0.1, 1, 0.1])
    equations = sums(X, torch.cat([loud, quiet], 1) * faint)
    alone = equations.explained(equations.solve(1e-9, rank=2), 2)
    shared = equations.explained(equations.solve(1e-9, rank=2, parts=2), 2)
    assert alone[1] < 0.1 < 0.9 < min(shared)


def test_features_that_never_vary_do_no_harm() -> None:
    constant = torch.cat([X, torch.ones(200, 2, dtype=torch.float64)], 1)
    fitted = sums(constant).solve(0.0)
    torch.testing.assert_close(fitted(constant), sums().solve(0.0)(X))


def test_nothing_to_fit_is_refused() -> None:
    with pytest.raises(DataError, match="no examples"):
        NormalEquations(2, 2).solve(0.1)
    with pytest.raises(ValueError, match="ridge must be 0 or more"):
        sums().solve(-1.0)
