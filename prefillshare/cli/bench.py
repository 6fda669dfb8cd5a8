"""`prefillshare bench spine`: the whole experiment, and its page."""

from __future__ import annotations

import argparse
from pathlib import Path

from prefillshare.bench.page import spine_page
from prefillshare.bench.spine import SpineSettings, run_spine
from prefillshare.cli.command import ROOT, Options, Report, environment
from prefillshare.config import load_config
from prefillshare.models.smollm2 import smollm2_directory
from prefillshare.report import accuracy_table, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which benchmark, and where its page goes."""
    parser.add_argument("benchmark", choices=("spine",), help="what to measure")
    parser.add_argument(
        "--note",
        default="",
        metavar="TEXT",
        help="a sentence for the page: what else the machine did meanwhile",
    )
    parser.add_argument(
        "--page",
        type=Path,
        default=ROOT / "docs" / "results" / "spine.md",
        metavar="FILE.md",
        help="the page to write (default: docs/results/spine.md)",
    )


def run(options: Options) -> Report:
    """Run it, print the table, write the page."""
    settings = load_config(SpineSettings, options.config, options.overrides)
    began = environment()
    results = run_spine(settings, settings.model or smollm2_directory())
    accuracy_table(results["accuracy"])
    config = settings.model_dump(mode="json")
    command = "prefillshare bench spine"
    command += f" --config {options.config}" if options.config else ""
    command += "".join(f" --set {override}" for override in options.overrides)
    page: Path = options.extra.page
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(spine_page(results, config, began, command, options.extra.note))
    say(f"wrote {page}")
    return Report(config, results)
