"""The contract between `prefillshare` and the modules of its commands.

A command's module has `run(options: Options) -> Report | None` and, if it takes
arguments of its own, `add_arguments(parser: argparse.ArgumentParser) -> None`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from prefillshare.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Options:
    """What every command is given; `extra` has the arguments that it added itself."""

    config: Path | None = None
    overrides: tuple[str, ...] = ()
    json: Path | None = None
    extra: argparse.Namespace = field(default_factory=argparse.Namespace)


@dataclass(frozen=True)
class Report:
    """The figures of a run, and the configuration that they belong to."""

    config: Mapping[str, Any]
    results: Mapping[str, Any]


class Command(Protocol):
    """A command's module."""

    def run(self, options: Options) -> Report | None:
        """Does the work; None if there are no figures to report."""


def command_line(command: str, options: Options) -> str:
    """What a page says to run to make it again."""
    line = f"prefillshare {command}"
    line += f" --config {options.config}" if options.config else ""
    return line + "".join(f" --set {override}" for override in options.overrides)


def check_json_path(path: Path) -> None:
    """Raises ConfigError, before the work is done, if `path` cannot be written."""
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"--json {path}: name a file in an existing, writable folder")


def write_report(
    path: Path,
    command: str,
    environment: Mapping[str, object],
    report: Report | None,
) -> None:
    """Writes `--json FILE`: all of it or, if that fails, nothing.

    A figure that is not finite becomes null. So do `config` and `results` of a command
    without figures.
    """
    document = {
        "command": command,
        "config": _plain(report.config) if report else None,
        "environment": dict(environment),
        "results": _plain(report.results) if report else None,
    }
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--json {path}: cannot be written ({error.strerror}); name another file"
        ) from error


def _plain(value: Any) -> Any:
    """`value` in the types of JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
