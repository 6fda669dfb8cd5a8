"""Every shipped configuration loads as what it is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefillshare.bench.spine import SpineSettings
from prefillshare.config import Config, load_config
from prefillshare.evals.comparison import EvalSettings
from prefillshare.serving.settings import ServeSettings
from prefillshare.training.settings import TrainSettings

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
KINDS: dict[str, type[Config]] = {
    "train": TrainSettings,
    "eval": EvalSettings,
    "serve": ServeSettings,
    "bench": SpineSettings,
}


# tests/tasks/recipes/test_recipe.py loads the recipes.
PATHS = sorted(set(CONFIGS.rglob("*.yaml")) - set(CONFIGS.glob("recipes/*.yaml")))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_loads(path: Path) -> None:
    kind = KINDS[path.relative_to(CONFIGS).parts[0]]
    assert isinstance(load_config(kind, path, []), kind)
