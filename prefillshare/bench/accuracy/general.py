"""What tuning a prefill module costs it as an ordinary model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from prefillshare.bench.accuracy.modules import module_directory, tuning_key
from prefillshare.bench.accuracy.settings import AccuracySettings, GeneralTests
from prefillshare.evals.perplexity import file_perplexity
from prefillshare.evals.runner import evaluate
from prefillshare.files import replace_text
from prefillshare.kv.identity import ModelId
from prefillshare.models.loading import load_model, load_tokenizer, model_context_tokens
from prefillshare.training.data import Tokenisation
from prefillshare.training.keys import chosen_task, file_digest
from prefillshare.training.schemes.one_row import Own
from prefillshare.training.settings import build_task


def module_costs(settings: AccuracySettings, model: Path) -> dict[str, Any]:
    """The general tests of the base and of every module that is there, by name.

    Each is scored once and kept; nothing is scored now without `settings.make`.
    """
    if settings.general is None:
        return {}
    folder = settings.scores or settings.output / "modules"
    base = ModelId.from_directory(model).digest
    general, make = settings.general, settings.make
    path = folder / "general-base.json"
    found = {"base": _kept(general, model if make else None, base, path)}
    for name in settings.modules:
        for seed in settings.seeds:
            tuning = settings.module_training(name, seed, model)
            path = folder / f"general-{name}-seed{seed}.json"
            key = tuning_key(tuning, base)
            directory = module_directory(tuning)
            there = directory if make and directory.exists() else None
            figures = _kept(general, there, key, path)
            found[f"{name}, seed {seed}"] = figures
    return {name: figures for name, figures in found.items() if figures is not None}


def _kept(
    general: GeneralTests, directory: Path | None, key: str, path: Path
) -> dict[str, Any] | None:
    """The figures at `path`, made now of the model in `directory` if need be."""
    asked = {
        "model": key,
        "texts": [file_digest(text) for text in general.texts],
        "window": general.window,
        "tasks": [chosen_task(task) for task in general.tasks],
        "units": general.units,
    }
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        if kept["asked"] == asked:
            return kept["figures"]  # type: ignore[no-any-return]
    if directory is None:
        return None
    figures = general_figures(general, directory)
    kept = {"asked": asked, "figures": figures}
    replace_text(path, json.dumps(kept, indent=1) + "\n")
    return figures


def general_figures(general: GeneralTests, directory: Path) -> dict[str, Any]:
    """Perplexity on text, and the NLL of responses to tasks, with its own prefill."""
    # Runs before it may have set another.
    torch.set_float32_matmul_precision("highest")
    model = load_model(directory, torch.float32)
    torch.nn.Module.to(model, Accelerator().device)
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
