"""The prefill modules of an experiment: tuned once, and recognised later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefillshare.bench.accuracy.locks import alone
from prefillshare.errors import PrefillShareError
from prefillshare.files import replace_text
from prefillshare.report import progress
from prefillshare.runtime import environment
from prefillshare.training.keys import chosen, digest
from prefillshare.training.readable import prefill_trainer
from prefillshare.training.settings import FREE_SETTINGS, PrefillSettings


def module_directory(tuning: PrefillSettings) -> Path:
    """Where the module that `tuning` makes lies, or will."""
    return tuning.output / "module"


def tuning_key(tuning: PrefillSettings, base: str) -> str:
    """A digest of what a module depends on; `base` is the untuned model's identity."""
    return digest(
        {"base": base, "training": chosen(tuning, tuning.tasks, FREE_SETTINGS)}
    )


def tune(tuning: PrefillSettings, base: str, title: str) -> None:
    """Tune the module of `tuning` on the model of identity `base`, if it is not there.

    Raises:
        PrefillShareError: a module that was tuned otherwise is there.
    """
    require_made_by(tuning, base)
    if module_directory(tuning).exists():
        return
    with alone(tuning.output):
        made_by = {"key": tuning_key(tuning, base), "made": environment()}
        replace_text(_made_by(tuning), json.dumps(made_by))
        trainer = prefill_trainer(tuning)
        with progress(title, trainer.settings.steps) as tick:
            trainer.run(lambda entry: tick(f"loss {entry.loss:.3f}"))


def provenance(tuning: PrefillSettings) -> dict[str, Any] | None:
    """Where and with what the module was made, if that was kept."""
    made: dict[str, Any] | None = json.loads(_made_by(tuning).read_text()).get("made")
    return made


def require_made_by(tuning: PrefillSettings, base: str) -> None:
    """Raise if a module is there that was tuned otherwise than `tuning` says.

    Raises:
        PrefillShareError: it was.
    """
    if not module_directory(tuning).exists():
        return
    path, key = _made_by(tuning), tuning_key(tuning, base)
    if not path.exists() or json.loads(path.read_text())["key"] != key:
        raise PrefillShareError(
            f"{path.parent} holds a prefill module that was not tuned with these "
            "settings; choose another `output` for it, or delete that folder"
        )


def _made_by(tuning: PrefillSettings) -> Path:
    return tuning.output / "made_by.json"
