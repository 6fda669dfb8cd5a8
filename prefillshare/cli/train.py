"""`prefillshare train`: wraps `accelerate launch train/decoder.py` or `prefill.py`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from prefillshare.cli.command import ROOT, Options, Report
from prefillshare.config import load_config
from prefillshare.errors import ConfigError, PrefillShareError
from prefillshare.models.loading import require_model_directory
from prefillshare.report import progress, say
from prefillshare.training.settings import (
    PrefillSettings,
    RunSettings,
    TrainSettings,
)

if TYPE_CHECKING:
    from prefillshare.training.trainer import Trainer

STAGES: dict[str, type[RunSettings]] = {
    "decoder": TrainSettings,
    "prefill": PrefillSettings,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to train, with how many processes, or in this one."""
    parser.epilog = (
        "In the configuration, report_to names trackers that are told of every step "
        "(tensorboard, wandb, trackio, ...), and push_to_hub the repository that the "
        "result is uploaded to, private unless hub_private is false. The result "
        "carries a model card. A run that was cut goes on from its last checkpoint "
        "unless resume is false."
    )
    parser.add_argument(
        "stage",
        nargs="?",
        choices=STAGES,
        default="decoder",
        help="decoders (default), or a prefill module that is tuned to be read",
    )
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="processes to launch (default 1, or what the accelerate file says)",
    )
    parser.add_argument(
        "--accelerate",
        type=Path,
        metavar="FILE",
        help="accelerate configuration, to split models (configs/accelerate)",
    )
    parser.add_argument(
        "--in-process", action="store_true", help="train here, as the scripts do"
    )
    # Of a launched process: where it tells whether its use was wrong (2) or its work
    # failed (1), because accelerate's launcher ends with 1 for both.
    parser.add_argument("--status", type=Path, help=argparse.SUPPRESS)


def run(options: Options) -> Report | None:
    """Train what the configuration describes."""
    kind = STAGES[options.extra.stage]
    settings = load_config(kind, options.config, options.overrides)
    if not options.extra.in_process:
        return _launch(settings, options)
    try:
        return _train(settings)
    except ConfigError:
        if options.extra.status is not None:
            options.extra.status.write_text("2")
        raise


def _train(settings: RunSettings) -> Report:
    from prefillshare.training.metrics import StepLog

    trainer = _trainer(settings)
    losses: list[float] = []
    with progress(f"training into {settings.output}", trainer.settings.steps) as tick:

        def show(entry: StepLog) -> None:
            losses.append(entry.loss)
            tick(f"loss {entry.loss:.4f}")

        saved = trainer.run(show)
    if trainer.accelerator.is_main_process:
        say(f"saved {saved}")
        if settings.push_to_hub is not None:
            say(f"uploaded to {settings.push_to_hub}")
    key = "decoder" if isinstance(settings, TrainSettings) else "module"
    return Report(settings.model_dump(mode="json"), {key: str(saved), "losses": losses})


def _trainer(settings: RunSettings) -> Trainer:
    from prefillshare.training.decoders import decoder_trainer
    from prefillshare.training.readable import prefill_trainer

    if isinstance(settings, PrefillSettings):
        return prefill_trainer(settings)
    assert isinstance(settings, TrainSettings)
    return decoder_trainer(settings)


def _launch(settings: RunSettings, options: Options) -> Report:
    require_model_directory(settings.model)
    script = ROOT / "train" / f"{options.extra.stage}.py"
    if not script.is_file():
        raise ConfigError(f"{script} is missing; install from a checkout with pip -e")
    with tempfile.TemporaryDirectory(prefix="prefillshare-train-") as folder:
        figures = Path(folder) / "figures.json"
        command = [*_accelerate(options.extra), str(script)]
        wrong_use = Path(folder) / "status"
        command += ["--json", str(figures), "--status", str(wrong_use)]
        command += ["--config", str(options.config)] if options.config else []
        for override in options.overrides:
            command += ["--set", override]
        # Without a GPU, several processes meet over gloo only if told to.
        cpu = {} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "true"}
        status = subprocess.run(command, check=False, env=os.environ | cpu).returncode
        if wrong_use.exists():
            raise ConfigError("training did not start; see above")
        if status != 0:
            raise PrefillShareError(f"training ended with status {status}; see above")
        written = json.loads(figures.read_text())
    return Report(written["config"], written["results"])


def _accelerate(extra: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--quiet", "--main_process_port", "0"]
    if extra.accelerate is not None:
        return [*command, *_configured(extra.accelerate, extra.processes)]
    processes = extra.processes or 1
    # Spelt out, so that nobody's saved accelerate configuration changes the run.
    command += ["--num_processes", str(processes), "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    threads = max(1, (os.cpu_count() or 1) // processes)
    command += ["--num_cpu_threads_per_process", str(threads)]
    if processes > 1:
        # `--cpu` starts one process whatever the number; this flag starts them all,
        # on whatever devices there are.
        return [*command, "--multi_gpu"]
    return command if torch.cuda.is_available() else [*command, "--cpu"]


def _configured(file: Path, processes: int | None) -> list[str]:
    if not file.is_file():
        raise ConfigError(
            f"{file}: no such accelerate configuration; see configs/accelerate, or "
            "write one by `accelerate config`"
        )
    arguments = ["--config_file", str(file)]
    return [*arguments, "--num_processes", str(processes)] if processes else arguments
