"""Linear maps by ridge regression, from streamed examples.

Shapes: N examples, F features, O outputs, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from prefillshare.errors import DataError

# A variance so small divides nothing.
_NOTHING = 1e-30


@dataclass(frozen=True)
class LinearMap:
    """`x @ weight + bias`: weight `[F, O]`, bias `[O]`."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Features `[..., F]` as outputs `[..., O]`."""
        return features @ self.weight + self.bias


class NormalEquations:
    """Sums from which any ridge fit of the examples follows.

    What is added at once is multiplied in its own precision, and summed up in double.
    Memory is `F * (F + O)` numbers, however many examples there were.
    """

    def __init__(self, features: int, outputs: int) -> None:
        self.examples = 0
        self._xx = torch.zeros(features, features, dtype=torch.float64)
        self._xy = torch.zeros(features, outputs, dtype=torch.float64)
        self._x = torch.zeros(features, dtype=torch.float64)
        self._y = torch.zeros(outputs, dtype=torch.float64)
        self._yy = torch.zeros(outputs, dtype=torch.float64)

    def add(self, x_NF: torch.Tensor, y_NO: torch.Tensor) -> None:  # noqa: N803
        """Count more examples in."""
        x, y = x_NF, y_NO
        self.examples += len(x)
        self._xx += x.T @ x
        self._xy += x.T @ y
        self._x += x.sum(0, dtype=torch.float64)
        self._y += y.sum(0, dtype=torch.float64)
        self._yy += y.double().square().sum(0)

    def of_features(self, columns: Sequence[int]) -> NormalEquations:
        """The sums as if only these features had been seen."""
        part = NormalEquations(0, 0)
        part.examples, part._y, part._yy = self.examples, self._y, self._yy
        at = torch.tensor(columns)
        part._xx, part._xy = self._xx[at][:, at], self._xy[at]
        part._x = self._x[at]
        return part

    def solve(self, ridge: float, rank: int | None = None, parts: int = 1) -> LinearMap:
        """Minimise the mean squared error plus `ridge` times the mean square of x,
        times the squared weights; the bias is free.

        With `rank`, the best map of that rank among the projections of the full fit
        (reduced-rank regression, Izenman 1975), where each of `parts` equal parts of
        the outputs counts alike, whatever its variance.

        Raises:
            DataError: there are no examples.
            ValueError: the penalty is negative.
        """
        if ridge < 0:
            raise ValueError(f"ridge must be 0 or more, got {ridge}")
        xx, xy, x, y = self._centred()
        penalty = ridge * xx.diagonal().mean()
        damped = xx + penalty * torch.eye(len(xx), dtype=xx.dtype)
        weight = _solution(damped, xy)
        if rank is not None and rank < min(weight.shape):
            size = self._deviation(parts)
            even = weight / size
            weight = even @ _leading(even.T @ damped @ even, rank) * size
        return LinearMap(weight, y - x @ weight)

    def explained(self, fitted: LinearMap, parts: int = 1) -> tuple[float, ...]:
        """The share of the variance that `fitted` explains (R squared).

        One for each of `parts` equal parts of the outputs.
        """
        xx, xy, _, y = self._centred()
        total = self._yy / self.examples - y.square()
        weight = fitted.weight.double()
        left = total - 2 * (weight * xy).sum(0) + (weight * (xx @ weight)).sum(0)
        shares = zip(left.chunk(parts), total.chunk(parts), strict=True)
        return tuple(float(1 - error.sum() / whole.sum()) for error, whole in shares)

    def _deviation(self, parts: int) -> torch.Tensor:
        """Of every output `[O]`, the root mean variance of its part."""
        y = self._y / self.examples
        variances = (self._yy / self.examples - y.square()).chunk(parts)
        means = [
            part.mean().clamp_min(_NOTHING).expand(len(part)) for part in variances
        ]
        return torch.cat(means).sqrt()

    def _centred(self) -> tuple[torch.Tensor, ...]:
        """Covariances of x with x and with y, and the means of both."""
        if not self.examples:
            raise DataError("a map cannot be fitted to no examples; give some text")
        x, y = self._x / self.examples, self._y / self.examples
        xx = self._xx / self.examples - torch.outer(x, x)
        xy = self._xy / self.examples - torch.outer(x, y)
        return xx, xy, x, y


def _solution(damped: torch.Tensor, xy: torch.Tensor) -> torch.Tensor:
    """`damped`⁻¹ `xy`; of several solutions, where it is singular, the smallest."""
    factor, failed = torch.linalg.cholesky_ex(damped)
    if not failed:
        return torch.cholesky_solve(xy, factor)
    solution: torch.Tensor = torch.linalg.lstsq(damped, xy, driver="gelsd").solution
    return solution


def _leading(fitted_OO: torch.Tensor, rank: int) -> torch.Tensor:  # noqa: N803
    """The projection `[O, O]` on the `rank` directions in which the fit varies most."""
    directions = torch.linalg.eigh(fitted_OO).eigenvectors[:, -rank:]
    projection: torch.Tensor = directions @ directions.T
    return projection
