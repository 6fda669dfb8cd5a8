"""`prefillshare eval`: base, full, naive and shared on the same test cases."""

from __future__ import annotations

from prefillshare.cli.command import Options, Report
from prefillshare.config import load_config
from prefillshare.evals.comparison import (
    EvalSettings,
    compare,
    differences,
    summarise,
)
from prefillshare.report import accuracy_table, differences_table, say


def run(options: Options) -> Report:
    """Compare and print the table."""
    settings = load_config(EvalSettings, options.config, options.overrides)
    accuracy = compare(settings, say)
    figures = summarise(accuracy)
    accuracy_table(figures)
    results = {"accuracy": figures, "paired": differences(accuracy)}
    differences_table(results["paired"])
    return Report(settings.model_dump(mode="json"), results)
