"""What an accuracy experiment trains, and what it compares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from prefillshare.config import Config
from prefillshare.training.settings import (
    PrefillSettings,
    TaskSettings,
    TrainSettings,
    build_task,
)


class TestedTask(Config):
    """What a decoder learns, and the tests it is scored on."""

    train: TaskSettings
    test: list[TaskSettings] = Field(min_length=1)


class System(Config):
    """Decoders trained one way.

    Attributes:
        module: the prefill module, by its name in `modules`; null is the base as it
            comes.
        train: what differs from `decoder`: keys of `TrainSettings`.
        readings: other ways to score the same decoders, by name. `naive: {prefill:
            shared}` reads the base's cache with decoders that prefilled for themselves.
    """

    module: str | None = None
    train: dict[str, Any] = {}
    readings: dict[str, dict[str, Any]] = {}


class Pair(Config):
    """Is `system` at most `margin` of exact match below `reference`?"""

    system: str
    reference: str


class GeneralTests(Config):
    """What a prefill module is asked as an ordinary model, to see what tuning cost it.

    Attributes:
        texts: files whose perplexity is taken, `window` tokens at a time.
        tasks: whose responses' NLL is taken, over the first `units` test units.
    """

    texts: list[Path] = []
    window: int = Field(1024, ge=2)
    tasks: list[TaskSettings] = []
    units: int = Field(200, ge=1)


class AccuracySettings(Config):
    """An experiment: every system is trained for every seed, from the same data.

    Attributes:
        title: of the page.
        model: the base; null is SmolLM2-135M-Instruct from its package.
        output: where runs are kept. A run that is there with the same settings is not
            made again, and one that was cut short goes on: an experiment can be stopped
            and its systems can be shared out over processes (`only`).
        modules: prefill modules to tune first, one for every seed: keys of
            `PrefillSettings`. An `output` that experiments share keeps them there.
        general: how the modules are tested by themselves, beside the base.
        decoder: what all systems have in common: keys of `TrainSettings`.
        evaluate_every: steps between the points of a curve, each over the first
            `curve_units` units of a test; the last point is over `test_units`.
        only: the systems that this process trains; by default all.
    """

    title: str
    model: Path | None = None
    output: Path
    modules: dict[str, dict[str, Any]] = {}
    general: GeneralTests | None = None
    decoder: dict[str, Any]
    tasks: list[TestedTask] = Field(min_length=1)
    systems: dict[str, System] = Field(min_length=1)
    compare: list[Pair] = []
    margin: float = Field(0.01, gt=0.0)
    seeds: list[int] = Field([0], min_length=1)
    evaluate_every: int = Field(25, ge=1)
    curve_units: int | None = Field(None, ge=1)
    test_units: int | None = Field(None, ge=1)
    units_per_pass: int = Field(1, ge=1)
    only: list[str] = []

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [name for name, _, _ in self.readings()]
        if len(set(names)) < len(names):
            raise ValueError(f"systems and readings share a name: {', '.join(names)}")
        asked = [name for pair in self.compare for name in vars(pair).values()]
        _require_known("compare", asked, names)
        _require_known("only", self.only, self.systems)
        modules = [s.module for s in self.systems.values() if s.module is not None]
        _require_known("module", modules, self.modules)
        for module in self.modules:
            self.module_training(module, 0, Path())
        titles = [test_title(test) for each in self.tasks for test in each.test]
        if twice := sorted({title for title in titles if titles.count(title) > 1}):
            raise ValueError(
                f"two tests would be called {', '.join(twice)}; put one of them into "
                "another experiment"
            )
        for name, _, changes in self.readings():
            self._training(self.system_of(name), 0, Path(), changes)
        return self

    def readings(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """Every name in the tables, its system, and what its reading changes."""
        for name, system in self.systems.items():
            yield name, name, {}
            for reading, changes in system.readings.items():
                yield reading, name, changes

    def system_of(self, reading: str) -> str:
        """The system whose decoders a reading scores."""
        return next(system for name, system, _ in self.readings() if name == reading)

    def module_training(self, module: str, seed: int, base: Path) -> PrefillSettings:
        """How `module` is tuned with `seed` from the model directory `base`."""
        asked = {"output": self.output / "modules" / module, **self.modules[module]}
        output = Path(asked.pop("output")) / f"seed{seed}"
        fields = {"model": base, "output": output, "seed": seed, **asked}
        return PrefillSettings.model_validate(fields)

    def training(self, system: str, seed: int, base: Path) -> TrainSettings:
        """How `system` is trained from the model directory `base`."""
        return self._training(system, seed, base, {})

    def reading(self, training: TrainSettings, changes: Mapping[str, Any]) -> Any:
        """`training` as another reading sees it."""
        return TrainSettings.model_validate({**training.model_dump(), **changes})

    def _training(
        self, system: str, seed: int, base: Path, changes: Mapping[str, Any]
    ) -> TrainSettings:
        fields = {
            "model": base,
            "output": self.output / "runs" / system / f"seed{seed}",
            "tasks": [each.train.model_dump() for each in self.tasks],
            "seed": seed,
            **self.decoder,
            **self.systems[system].train,
            **changes,
        }
        return TrainSettings.model_validate(fields)


def test_title(task: TaskSettings) -> str:
    """What a test is called in tables: the task, and what is unusual about it."""
    title = build_task(task).name
    unusual = [
        f"{key}={getattr(task, key)}"
        for key in ("format", "records", "records_max", "depths", "with_context")
        if key in task.model_fields_set
    ]
    return f"{title} ({', '.join(unusual)})" if unusual else title


def _require_known(key: str, names: Any, known: Any) -> None:
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"`{key}` names {', '.join(unknown)}, which is none of {', '.join(known)}"
        )
