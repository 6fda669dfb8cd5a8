"""Experiment trackers (TensorBoard, Weights & Biases, trackio, …), through accelerate.

A resumed run goes on where it was: in the same log directory, and in the same run of
the trackers whose runs have an id that a client may choose.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import (
    LOGGER_TYPE_TO_CLASS,
    filter_trackers,
    get_available_trackers,
)
from accelerate.utils import ProjectConfiguration

from prefillshare.errors import ConfigError
from prefillshare.training.metrics import StepLog
from prefillshare.training.settings import RunSettings

PROJECT = "prefillshare"
LOG_FOLDER = "logs"
_RUN_ID_FILE = "tracked_run"
# Where the package has another name than the tracker.
_PACKAGES = {"comet_ml": "comet-ml"}


def tracker_names(report_to: list[str] | str) -> list[str]:
    """The trackers of a `report_to`, each installed, each once.

    Raises:
        ConfigError: accelerate knows no such tracker, or its package is missing.
    """
    listed = [report_to] if isinstance(report_to, str) else report_to
    names = [name for name in dict.fromkeys(listed) if name != "none"]
    known = sorted(LOGGER_TYPE_TO_CLASS)
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(
            f"report_to names {', '.join(unknown)}; known trackers are "
            f"{', '.join(known)}, and none"
        )
    installed = [str(each) for each in get_available_trackers()]
    built_in = [
        n for n in names if LOGGER_TYPE_TO_CLASS[n].__module__.startswith("accelerate.")
    ]
    if missing := [name for name in built_in if name not in installed]:
        packages = " ".join(_PACKAGES.get(name, name) for name in missing)
        raise ConfigError(
            f"report_to names {', '.join(missing)}, which is not installed; "
            f"pip install {packages}, or set report_to to none"
        )
    return names


class Tracking:
    """Tells the trackers of `report_to` about every step; on the main process only."""

    def __init__(
        self, settings: RunSettings, accelerator: Accelerator, step: int
    ) -> None:
        """For a run that starts after `step`.

        Raises:
            ConfigError: see `tracker_names`.
        """
        self._settings, self._accelerator, self._step = settings, accelerator, step
        self._names = tracker_names(settings.report_to)

    def __enter__(self) -> Tracking:
        if self._names and self._accelerator.is_main_process:
            self._start()
        return self

    def write(self, entry: StepLog) -> None:
        """Log one step's scalars."""
        if self._names:
            self._accelerator.log(entry.scalars(), step=entry.step)

    def __exit__(self, *_: object) -> None:
        # Not `end_training`: that also ends the process group, which the run still
        # needs in order to save.
        for tracker in self._accelerator.trackers if self._names else ():
            tracker.finish()

    def _start(self) -> None:
        accelerator, output = self._accelerator, self._settings.output
        folder = output / LOG_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        accelerator.project_configuration = ProjectConfiguration(
            project_dir=str(output), logging_dir=str(folder)
        )
        accelerator.log_with = filter_trackers(self._names, accelerator.logging_dir)
        fresh = self._step == 0
        config = _flat(self._settings.model_dump(mode="json")) if fresh else None
        try:
            accelerator.init_trackers(PROJECT, config, self._continued(fresh))
        except OSError:
            raise
        # Trackers' errors have no base in common.
        except Exception as error:
            raise ConfigError(
                f"a tracker of report_to ({', '.join(self._names)}) does not start: "
                f"{error}; set it up, or set report_to to none"
            ) from error

    def _continued(self, fresh: bool) -> dict[str, dict[str, Any]]:
        """What makes each tracker go on with the run that it had."""
        run = _run_id(self._settings.output / _RUN_ID_FILE, fresh)
        return {
            # Readers drop what a run logged beyond the checkpoint it resumes from.
            "tensorboard": {"purge_step": self._step + 1},
            "wandb": {"id": run, "resume": "allow"},
            "trackio": {"name": run, "resume": "allow"},
        }


def _run_id(path: Path, fresh: bool) -> str:
    if fresh or not path.exists():
        path.write_text(secrets.token_hex(8))
    return path.read_text()


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, str | int | float]:
    """Nested settings as `a.b` and scalars, which is all that trackers take."""
    flat: dict[str, str | int | float] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, str | int | float):
            flat[prefix + key] = value
        else:
            flat[prefix + key] = str(value)
    return flat
