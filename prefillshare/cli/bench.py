"""`prefillshare bench …`: an experiment, and its page."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefillshare.bench.accuracy.experiment import run_accuracy
from prefillshare.bench.accuracy.page import accuracy_page
from prefillshare.bench.accuracy.settings import AccuracySettings
from prefillshare.bench.judge.experiment import JudgeSettings, run_judge
from prefillshare.bench.judge.page import judge_page
from prefillshare.bench.judge.plot import judge_plot
from prefillshare.bench.plots import curves, require_matplotlib, save
from prefillshare.bench.spine.experiment import run_spine
from prefillshare.bench.spine.page import spine_page
from prefillshare.bench.spine.plot import spine_plot
from prefillshare.bench.spine.settings import SpineSettings
from prefillshare.bench.training.experiment import (
    TrainingSpeedSettings,
    run_training_speed,
)
from prefillshare.bench.training.page import training_page
from prefillshare.bench.training.plot import training_plot
from prefillshare.bench.transfer.experiment import run_transfer
from prefillshare.bench.transfer.page import public_config, transfer_page
from prefillshare.bench.transfer.plot import transfer_plot
from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.cli.command import (
    ROOT,
    Options,
    Report,
    command_line,
    write_report,
)
from prefillshare.config import Config, load_config
from prefillshare.errors import ConfigError
from prefillshare.models.smollm2 import smollm2_directory
from prefillshare.report import accuracy_table, say
from prefillshare.runtime import environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class _Benchmark:
    """Settings, what runs them on a model, and what makes their page and plot.

    `run` takes settings that have a `model`, and a path to it, or settings alone.
    `public` leaves out of the settings what is not to be published.
    """

    settings: type[Config]
    run: Callable[..., dict[str, Any]]
    page: Callable[..., str]
    plot: Callable[[Mapping[str, Any]], Figure] | None = None
    public: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda config: config


_BENCHMARKS = {
    "training": _Benchmark(
        TrainingSpeedSettings, run_training_speed, training_page, training_plot
    ),
    "transfer": _Benchmark(
        TransferBenchSettings,
        run_transfer,
        transfer_page,
        transfer_plot,
        public_config,
    ),
    "spine": _Benchmark(SpineSettings, run_spine, spine_page, spine_plot),
    "judge": _Benchmark(JudgeSettings, run_judge, judge_page, judge_plot),
    "accuracy": _Benchmark(
        AccuracySettings, run_accuracy, accuracy_page, lambda x: curves(x["curves"])
    ),
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
        "--peers",
        type=Path,
        metavar="FOLDER",
        help="transfer: run the other engines' programs of a folder as well",
    )
    parser.add_argument(
        "--page",
        type=Path,
        metavar="FILE.md",
        help="the page to write (default: docs/results/CONFIG.md)",
    )


def run(options: Options) -> Report:
    """Run it, print the table, write the page."""
    if options.extra.peers is not None:
        peers = f"peers={options.extra.peers}"
        options = replace(options, overrides=(*options.overrides, peers))
    name = options.extra.benchmark
    benchmark = _BENCHMARKS[name]
    options = _with_config(options, name)
    settings: Any = load_config(benchmark.settings, options.config, options.overrides)
    if benchmark.plot is not None:
        require_matplotlib()
    title = options.config.stem if options.config else name
    page = options.extra.page or ROOT / "docs" / "results" / f"{title}.md"
    if page.is_dir():
        raise ConfigError(f"--page {page}: is a folder; name a file")
    began = environment()
    if "model" in benchmark.settings.model_fields:
        results = benchmark.run(settings, settings.model or smollm2_directory())
    else:
        results = benchmark.run(settings)
    if name == "spine":
        accuracy_table(results["accuracy"])
    report = Report(settings.model_dump(mode="json"), results)
    published = replace(report, config=benchmark.public(report.config))
    if options.json is not None:
        # What took hours to measure outlives a page that cannot be made.
        write_report(options.json, "bench", began, published)
    _write(page, benchmark, report, began, options)
    return published


def _with_config(options: Options, name: str) -> Options:
    """`options` with the benchmark's own configuration, if none was named."""
    usual = ROOT / "configs" / "bench" / f"{name}.yaml"
    if options.config is not None or not usual.is_file():
        return options
    path = Path(os.path.relpath(usual))
    say(f"configuration: {path}")
    return replace(options, config=path)


def _write(
    page: Path,
    benchmark: _Benchmark,
    report: Report,
    environment: Mapping[str, object],
    options: Options,
) -> None:
    """The page and, beside it, its plot."""
    command = command_line(f"bench {options.extra.benchmark}", options)
    note = options.extra.note
    text = benchmark.page(report.results, report.config, environment, command, note)
    page.parent.mkdir(parents=True, exist_ok=True)
    if benchmark.plot is not None:
        plot = page.with_suffix(".svg")
        save(benchmark.plot(report.results), plot)
        text += f"\n![the figures above]({plot.name})\n"
    page.write_text(text)
    say(f"wrote {page}")
