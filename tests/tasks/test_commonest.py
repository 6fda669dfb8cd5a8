"""What the usual answer is worth."""

from __future__ import annotations

import pytest

from prefillshare.tasks.base import Sample, commonest_share


def sample(answer: str) -> Sample:
    return Sample(({"role": "user", "content": "x"},), "", answer)


@pytest.mark.parametrize(
    ("answers", "share"),
    [([["a", "b"], ["a"]], 2 / 3), ([["a"], ["b"]], 0.5), ([[]], 0.0)],
)
def test_it_is_the_share_of_the_commonest(
    answers: list[list[str]], share: float
) -> None:
    units = [tuple(sample(a) for a in unit) for unit in answers]
    assert commonest_share(units) == pytest.approx(share)
