"""Every shipped configuration loads as what it is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefillshare.bench.accuracy.settings import AccuracySettings
from prefillshare.bench.bridge.experiment import BridgeEvalSettings
from prefillshare.bench.judge.experiment import JudgeSettings
from prefillshare.bench.spine.settings import SpineSettings
from prefillshare.bench.training.experiment import TrainingSpeedSettings
from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.config import Config, load_config
from prefillshare.evals.comparison import EvalSettings
from prefillshare.evals.sensitivity import SensitivitySettings
from prefillshare.serving.settings import ServeSettings
from prefillshare.training.bridges.ends import BridgeSettings
from prefillshare.training.settings import PrefillSettings, TrainSettings
from prefillshare.transfer.agent.settings import AgentSettings

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
KINDS: dict[str, type[Config]] = {
    "train": TrainSettings,
    "eval": EvalSettings,
    "serve": ServeSettings,
    "bench": SpineSettings,
    "recipes": TrainSettings,
    "accuracy": AccuracySettings,
    "bridge": BridgeSettings,
}
BY_NAME: dict[str, type[Config]] = {
    "agent.yaml": AgentSettings,
    "prefill.yaml": PrefillSettings,
    "judge.yaml": JudgeSettings,
    "training.yaml": TrainingSpeedSettings,
    "training_gpu.yaml": TrainingSpeedSettings,
    "transfer.yaml": TransferBenchSettings,
    "peer_settings.yaml": TransferBenchSettings,
    "sensitivity.yaml": SensitivitySettings,
}
# Those of `accelerate` (tests/training/test_sharding.py) and `lm_eval` are their own.
FOREIGN = ("accelerate", "lm_eval")
PATHS = [p for p in sorted(CONFIGS.rglob("*.yaml")) if p.parent.name not in FOREIGN]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_loads(path: Path) -> None:
    kind = KINDS[path.relative_to(CONFIGS).parts[0]]
    kind = BY_NAME.get(path.name, kind)
    if path.parent.parts[-2:] == ("bridge", "eval"):
        kind = BridgeEvalSettings
    assert isinstance(load_config(kind, path, []), kind)
