"""The prefill modules of an experiment: tuned once, and recognised later."""

from __future__ import annotations

import json
from pathlib import Path

from prefillshare.bench.accuracy.locks import alone
from prefillshare.bench.accuracy.settings import AccuracySettings
from prefillshare.errors import PrefillShareError
from prefillshare.kv.identity import ModelId
from prefillshare.report import progress
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


def tune(settings: AccuracySettings, name: str, seed: int, model: Path) -> None:
    """Tune the module `name` with `seed` from the model directory, if it is not there.

    Raises:
        PrefillShareError: a module that was tuned otherwise is there.
    """
    tuning = settings.module_training(name, seed, model)
    made_by = tuning.output / "made_by.json"
    key = tuning_key(tuning, ModelId.from_directory(model).digest)
    if module_directory(tuning).exists():
        _require_made_by(made_by, key)
        return
    with alone(tuning.output):
        made_by.write_text(json.dumps({"key": key}))
        trainer = prefill_trainer(tuning)
        title = f"tuning the prefill module {name}, seed {seed}"
        with progress(title, trainer.settings.steps) as tick:
            trainer.run(lambda entry: tick(f"loss {entry.loss:.3f}"))


def _require_made_by(path: Path, key: str) -> None:
    if not path.exists() or json.loads(path.read_text())["key"] != key:
        raise PrefillShareError(
            f"{path.parent} holds a prefill module that was not tuned with these "
            "settings; choose another `output` for it, or delete that folder"
        )
