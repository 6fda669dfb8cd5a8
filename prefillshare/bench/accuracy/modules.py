"""What tuning a prefill module costs it as an ordinary model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from prefillshare.bench.accuracy.keys import chosen_task, file_digest
from prefillshare.bench.accuracy.settings import AccuracySettings, GeneralTests
from prefillshare.evals.perplexity import file_perplexity
from prefillshare.evals.runner import evaluate
from prefillshare.kv.identity import ModelId
from prefillshare.models.loading import load_model, load_tokenizer, model_context_tokens
from prefillshare.training.data import Tokenisation
from prefillshare.training.schemes.one_row import Own
from prefillshare.training.settings import build_task


def module_costs(settings: AccuracySettings, model: Path) -> dict[str, Any]:
    """The general tests of the base and of every module that is there, by name.

    Each is scored once and kept: the figures are addressed by the module's identity.
    """
    if settings.general is None:
        return {}
    output = settings.output / "modules"
    directories = {"base": model} | {
        f"{name}, seed {seed}": settings.module_training(name, seed, model).output
        / "module"
        for name in settings.modules
        for seed in settings.seeds
    }
    return {
        name: _kept(settings.general, directory, output)
        for name, directory in directories.items()
        if directory.exists()
    }


def _kept(general: GeneralTests, directory: Path, output: Path) -> dict[str, Any]:
    asked = {
        "texts": [file_digest(text) for text in general.texts],
        "window": general.window,
        "tasks": [chosen_task(task) for task in general.tasks],
        "units": general.units,
    }
    path = output / f"general-{ModelId.from_directory(directory).digest[:16]}.json"
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        if kept["asked"] == asked:
            return kept["figures"]  # type: ignore[no-any-return]
    figures = general_figures(general, directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"asked": asked, "figures": figures}))
    return figures


def general_figures(general: GeneralTests, directory: Path) -> dict[str, Any]:
    """Perplexity on text, and the NLL of responses to tasks, with its own prefill."""
    model = load_model(directory, torch.float32)
    tokenizer = load_tokenizer(directory)
    context = model_context_tokens(directory)
    figures: dict[str, Any] = {}
    if general.texts:
        window = min(general.window, context)
        read = file_perplexity(
            model, tokenizer, general.texts, window=window, stride=window // 2
        )
        figures["perplexity"] = read.value
    # No decoder reads these: where the boundary stands makes no difference.
    tokenisation = Tokenisation(tokenizer, "last_token", context)
    for each in general.tasks:
        task = build_task(each)
        groups = tokenisation.groups(task, "test")[: general.units]
        figures[task.name] = evaluate(Own(), model, groups).summary()["nll"]
    return figures
