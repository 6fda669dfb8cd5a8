"""`prefillshare train`: wraps `accelerate launch train/decoder.py`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from prefillshare.cli.command import ROOT, Options, Report
from prefillshare.config import load_config
from prefillshare.errors import ConfigError, PrefillShareError
from prefillshare.models.loading import require_model_directory
from prefillshare.report import progress, say
from prefillshare.training.settings import TrainSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How many processes, or this one."""
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="processes to launch"
    )
    parser.add_argument(
        "--in-process", action="store_true", help="train here, as train/decoder.py does"
    )


def run(options: Options) -> Report | None:
    """Train the decoder of the configuration."""
    settings = load_config(TrainSettings, options.config, options.overrides)
    if options.extra.in_process:
        return _train(settings)
    return _launch(settings, options)


def _train(settings: TrainSettings) -> Report:
    from prefillshare.training.trainer import StepLog, Trainer

    trainer = Trainer(settings)
    losses: list[float] = []
    title = f"{settings.agent} ({settings.prefill} prefill)"
    with progress(title, settings.steps) as tick:

        def show(entry: StepLog) -> None:
            losses.append(entry.loss)
            tick(f"loss {entry.loss:.4f}")

        saved = trainer.run(show)
    if trainer.accelerator.is_main_process:
        say(f"saved {saved}")
    return Report(
        settings.model_dump(mode="json"), {"decoder": str(saved), "losses": losses}
    )


def _launch(settings: TrainSettings, options: Options) -> Report:
    require_model_directory(settings.model)
    script = ROOT / "train" / "decoder.py"
    if not script.is_file():
        raise ConfigError(f"{script} is missing; install from a checkout with pip -e")
    with tempfile.TemporaryDirectory(prefix="prefillshare-train-") as folder:
        figures = Path(folder) / "figures.json"
        command = [*_accelerate(options.extra.processes), str(script)]
        command += ["--json", str(figures)]
        command += ["--config", str(options.config)] if options.config else []
        for override in options.overrides:
            command += ["--set", override]
        status = subprocess.run(command, check=False).returncode
        if status != 0:
            raise PrefillShareError(f"training ended with status {status}; see above")
        written = json.loads(figures.read_text())
    return Report(written["config"], written["results"])


def _accelerate(processes: int) -> list[str]:
    # Spelt out, so that nobody's saved accelerate configuration changes the run.
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--num_processes", str(processes), "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--quiet"]
    threads = max(1, (os.cpu_count() or 1) // processes)
    command += ["--num_cpu_threads_per_process", str(threads)]
    return command if torch.cuda.is_available() else [*command, "--cpu"]
