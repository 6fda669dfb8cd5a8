"""The training configuration, as YAML gives it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from prefillshare.config import Config


class LoraSettings(Config):
    """Low-rank adapters; `targets` as PEFT names them."""

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    targets: str | list[str] = "all-linear"


class DataSettings(Config):
    """Case files to train on: one context a step, `questions` questions over it."""

    contexts: int = Field(64, ge=1)
    records: int = Field(18, ge=1)
    records_max: int | None = Field(None, ge=1)
    questions: int = Field(8, ge=1)
    seed: int = 0


class TrainSettings(Config):
    """One decoder.

    `prefill: shared` is cache-conditioned fine-tuning on the frozen module's cache;
    `own` is the ordinary fine-tune, which writes and reads its own cache.
    """

    model: Path
    output: Path
    agent: Literal["shipping", "invoicing"] = "shipping"
    prefill: Literal["shared", "own"] = "shared"
    boundary: Literal["last_token", "suffix"] = "last_token"
    dtype: Literal["float64", "float32", "bfloat16"] = "float32"
    steps: int = Field(64, ge=1)
    learning_rate: float = Field(2e-3, gt=0.0)
    warmup_steps: int = Field(5, ge=0)
    max_grad_norm: float = Field(1.0, gt=0.0)
    seed: int = 0
    checkpoint_every: int = Field(25, ge=1)
    resume: bool = True
    lora: LoraSettings = LoraSettings()
    data: DataSettings = DataSettings()
