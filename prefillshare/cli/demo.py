"""`prefillshare demo`: the spine in minutes on two cores."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from prefillshare.bench.spine.experiment import run_spine
from prefillshare.bench.spine.page import carriage
from prefillshare.bench.spine.settings import (
    CaseSettings,
    HeldOutSettings,
    ServingSettings,
    SpineSettings,
)
from prefillshare.cli.command import Options, Report
from prefillshare.config import Config, load_config
from prefillshare.models.smollm2 import smollm2_directory
from prefillshare.models.tiny import save_tiny_model
from prefillshare.report import accuracy_table, differences_table, say, table

# Two agents: four would need twice the time and memory.
_AGENTS = ["shipping", "invoicing"]
_QUICK = SpineSettings(
    agents=_AGENTS,
    steps=60,
    train=CaseSettings(contexts=32, records=6, questions=4),
    test=HeldOutSettings(contexts=4, records=6, questions=4),
    serving=ServingSettings(contexts=3, records=12, max_tokens=16),
)
_REAL = SpineSettings(
    agents=_AGENTS,
    steps=24,
    train=CaseSettings(contexts=24, records=10, questions=4),
    test=HeldOutSettings(contexts=6, records=10),
    serving=ServingSettings(contexts=3, records=34, max_tokens=40),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--quick`."""
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a tiny random model instead of SmolLM2: shows the machinery, not quality",
    )


def run(options: Options) -> Report:
    """Train, evaluate, serve; print what was measured."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="prefillshare-demo-") as folder:
        settings = _settings(options, Path(folder))
        model = _model(settings, Path(folder), options.extra.quick)
        results = run_spine(settings, model)
    minutes = (time.monotonic() - began) / 60
    config = settings.model_dump(mode="json")
    _print(results, config["serving"]["link"], minutes, options.extra.quick)
    return Report(config, results | {"minutes": minutes})


def _settings(options: Options, folder: Path) -> SpineSettings:
    preset = _QUICK if options.extra.quick else _REAL
    given = load_config(SpineSettings, options.config, options.overrides)
    merged = _laid_over(preset.model_dump(), given)
    if "output" not in given.model_fields_set:
        merged["output"] = folder / "runs"
    return SpineSettings.model_validate(merged)


def _laid_over(preset: dict[str, Any], given: Config) -> dict[str, Any]:
    """`preset` with the keys that were given, one by one, in nested parts too."""
    merged = dict(preset)
    for name in given.model_fields_set:
        value = getattr(given, name)
        if isinstance(value, Config):
            merged[name] = _laid_over(preset[name] or {}, value)
        else:
            merged[name] = value
    return merged


def _model(settings: SpineSettings, folder: Path, quick: bool) -> Path:
    if settings.model is not None:
        return settings.model
    if quick:
        return save_tiny_model(folder / "model")
    say("loading SmolLM2-135M-Instruct (converted once, about half a minute)")
    return smollm2_directory()


def _print(
    results: dict[str, Any], link: dict[str, Any] | None, minutes: float, quick: bool
) -> None:
    accuracy_table(results["accuracy"])
    ttft, turns = results["ttft_seconds"], results["ttft_by_turn_seconds"]
    rows = [
        ["contexts prefilled", *(str(results["prefills"][s]) for s in ttft)],
        [
            "prompt tokens computed",
            *(str(results["prefilled_tokens"][s]) for s in ttft),
        ],
        ["time to first token, median", *(f"{ttft[s]:.2f} s" for s in ttft)],
        ["  first agent", *(f"{turns[s][0]:.2f} s" for s in ttft)],
        ["  second agent", *(f"{turns[s][1]:.2f} s" for s in ttft)],
    ]
    contexts = results["served_contexts"]
    table(
        f"Served: 2 agents over each of {contexts} contexts "
        f"(prompts of up to {results['served_prompt_tokens']} tokens)",
        ["", "shared prefill", "one prefill per model"],
        rows,
    )
    say(carriage(results, link))
    differences_table(results["paired"])
    if quick:
        say("a tiny random model: this shows the machinery, not quality or speed")
    say(f"everything above was measured in this run, in {minutes:.1f} minutes")
