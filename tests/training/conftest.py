"""What the training suites share: exact norms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm


def exact_norm(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """The root-mean-square norm in its input's own precision."""
    return torch.nn.functional.rms_norm(
        hidden_states,
        self.weight.shape,
        self.weight,
        self.variance_epsilon,
    )


@pytest.fixture(autouse=True)
def norms_in_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The norm rounds to fp32 whatever the model's dtype, which hides fp64 equality."""
    monkeypatch.setattr(LlamaRMSNorm, "forward", exact_norm)
