"""`prefillshare bench …`: an experiment, and its page."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefillshare.bench.accuracy.experiment import run_accuracy
from prefillshare.bench.accuracy.page import accuracy_page
from prefillshare.bench.accuracy.settings import AccuracySettings
from prefillshare.bench.page import spine_page
from prefillshare.bench.spine import SpineSettings, run_spine
from prefillshare.cli.command import ROOT, Options, Report, environment
from prefillshare.config import Config, load_config
from prefillshare.models.smollm2 import smollm2_directory
from prefillshare.report import accuracy_table, say


@dataclass(frozen=True)
class _Benchmark:
    """Settings, what runs them on a model, and what makes their page."""

    settings: type[Config]
    run: Callable[[Any, Path], dict[str, Any]]
    page: Callable[..., str]


_BENCHMARKS = {
    "spine": _Benchmark(SpineSettings, run_spine, spine_page),
    "accuracy": _Benchmark(AccuracySettings, run_accuracy, accuracy_page),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which benchmark, and where its page goes."""
    parser.add_argument("benchmark", choices=_BENCHMARKS, help="what to measure")
    parser.add_argument(
        "--note",
        default="",
        metavar="TEXT",
        help="a sentence for the page: what else the machine did meanwhile",
    )
    parser.add_argument(
        "--page",
        type=Path,
        metavar="FILE.md",
        help="the page to write (default: docs/results/CONFIG.md)",
    )


def run(options: Options) -> Report:
    """Run it, print the table, write the page."""
    name = options.extra.benchmark
    benchmark = _BENCHMARKS[name]
    settings: Any = load_config(benchmark.settings, options.config, options.overrides)
    began = environment()
    results = benchmark.run(settings, settings.model or smollm2_directory())
    if name == "spine":
        accuracy_table(results["accuracy"])
    config = settings.model_dump(mode="json")
    title = options.config.stem if options.config else name
    page = options.extra.page or ROOT / "docs" / "results" / f"{title}.md"
    text = benchmark.page(results, config, began, _command(options), options.extra.note)
    _write(page, text)
    return Report(config, results)


def _command(options: Options) -> str:
    command = f"prefillshare bench {options.extra.benchmark}"
    command += f" --config {options.config}" if options.config else ""
    return command + "".join(f" --set {override}" for override in options.overrides)


def _write(page: Path, text: str) -> None:
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text)
    say(f"wrote {page}")
