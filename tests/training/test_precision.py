"""The precision of matrix products is that of the run that was opened last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

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
