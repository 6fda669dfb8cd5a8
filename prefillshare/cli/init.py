"""`prefillshare init`: the base model that the shipped configurations name."""

from __future__ import annotations

import argparse
from pathlib import Path

from prefillshare.cli.command import Options, Report
from prefillshare.errors import ConfigError
from prefillshare.models.smollm2 import smollm2_directory
from prefillshare.report import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the model goes."""
    parser.add_argument(
        "directory", nargs="?", type=Path, default=Path("models/base"), metavar="DIR"
    )


def run(options: Options) -> Report | None:
    """Link SmolLM2-135M-Instruct, converted once, to the directory."""
    directory: Path = options.extra.directory
    source = smollm2_directory()
    if directory.is_symlink() and directory.resolve() == source.resolve():
        say(f"{directory} is there already")
        return None
    if directory.exists() or directory.is_symlink():
        raise ConfigError(f"{directory} is something else already; name another DIR")
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.symlink_to(source)
    say(f"{directory} is SmolLM2-135M-Instruct ({source})")
    return None
