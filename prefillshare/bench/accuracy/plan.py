"""What is to be made of one system and seed, and where it is kept: before any work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prefillshare.bench.accuracy.modules import (
    module_directory,
    require_made_by,
    tuning_key,
)
from prefillshare.bench.accuracy.run import Run
from prefillshare.bench.accuracy.scoring import Cell, cells
from prefillshare.bench.accuracy.settings import AccuracySettings
from prefillshare.kv.identity import ModelId
from prefillshare.models.bridge.storage import bridge_origin
from prefillshare.training.keys import chosen, digest
from prefillshare.training.settings import (
    FREE_SETTINGS,
    PrefillSettings,
    TrainSettings,
)


@dataclass(frozen=True)
class Plan:
    """One system and seed.

    Attributes:
        training: how its decoders are trained.
        tuning: how its prefill module is; None on the base as it comes.
        base: the untuned model's identity.
        key: a digest of what the decoders depend on.
        kept: the small file of its scores, if the experiment keeps them.
    """

    settings: AccuracySettings
    system: str
    training: TrainSettings
    tuning: PrefillSettings | None
    base: str
    key: str
    kept: Path | None

    @property
    def work(self) -> Path:
        """The file that grows while the run is made, beside its decoders."""
        return self.training.output / "run.json"

    def load(self) -> Run:
        """The run as far as it is there.

        Raises:
            PrefillShareError: another experiment's run is there.
        """
        kept = None if self.kept is None else Run.load(self.kept, self.key)
        if kept is None or self.work.exists():
            return Run.load(self.work, self.key)
        return kept

    def left(self, run: Run) -> list[Cell]:
        """What is not scored yet, or not answered."""
        return self.unscored(run) + self.unanswered(run)

    def unscored(self, run: Run) -> list[Cell]:
        """What is not scored yet."""
        units = self.settings.test_units
        every = cells(self.settings, self.system)
        return [cell for cell in every if cell.key(units) not in run.finals]

    def unanswered(self, run: Run) -> list[Cell]:
        """What is not answered yet, if answers are asked for."""
        settings = self.settings
        if settings.generate is None:
            return []
        every = cells(settings, self.system)
        return [cell for cell in every if cell.answers_key(settings) not in run.answers]

    def is_ours(self, run: Run) -> bool:
        """Whether this process makes what is left of the run."""
        settings = self.settings
        here = settings.make and (not settings.only or self.system in settings.only)
        return here and bool(self.left(run))

    def require_consistent(self) -> None:
        """Load what is there and leave it, lest training find out after hours.

        Raises:
            PrefillShareError: a run, or a module that is needed, is of other settings.
        """
        if self.is_ours(self.load()) and self.tuning is not None:
            require_made_by(self.tuning, self.base)


def plan_of(
    settings: AccuracySettings, system: str, seed: int, model: Path, base: str
) -> Plan:
    """The plan of `system` and `seed` on `model`, whose identity is `base`."""
    module = settings.systems[system].module
    tuning, directory, identity = None, model, base
    if module is not None:
        tuning = settings.module_training(module, seed, model)
        directory, identity = module_directory(tuning), tuning_key(tuning, base)
    training = settings.training(system, seed, directory)
    key, kept = _key(training, identity), settings.kept(system, seed)
    return Plan(settings, system, training, tuning, base, key, kept)


def plans_of(settings: AccuracySettings, model: Path) -> list[Plan]:
    """Those of every seed and system, in the order in which they are made."""
    base = ModelId.from_directory(model).digest
    return [
        plan_of(settings, system, seed, model, base)
        for seed in settings.seeds
        for system in settings.systems
    ]


def _key(training: TrainSettings, base: str) -> str:
    """Models and bridges count by their contents."""
    free = FREE_SETTINGS | {"decoder_model", "bridge"}
    about = {"base": base, "training": chosen(training, training.every_task(), free)}
    if training.decoder_model is not None:
        about["decoder_model"] = ModelId.from_directory(training.decoder_model).digest
    if training.bridge is not None:
        about["bridge"] = bridge_origin(training.bridge)
    return digest(about)
