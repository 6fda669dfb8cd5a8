"""The readings and tests of a system: in training, and of saved decoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefillshare.bench.accuracy.keys import chosen_task, digest
from prefillshare.bench.accuracy.settings import AccuracySettings, test_title
from prefillshare.evals.runner import Scores, evaluate
from prefillshare.models.decoder import Decoder
from prefillshare.training.data import Group
from prefillshare.training.decoders import Workshop, scheme_of
from prefillshare.training.settings import TaskSettings, TrainSettings, build_task


@dataclass(frozen=True)
class Cell:
    """One reading on one test.

    Attributes:
        changes: what the reading changes in the training settings.
        decoder: which of the system's decoders is asked.
        folder: where that one is saved, below the run's.
    """

    reading: str
    changes: Mapping[str, Any]
    test: str
    task: TaskSettings
    decoder: int
    folder: Path

    def key(self, units: int | None) -> str:
        """A digest of what a score depends on, beside the decoder."""
        about = [dict(self.changes), chosen_task(self.task), units]
        return digest(about)[:16]


def cells(settings: AccuracySettings, system: str) -> Iterator[Cell]:
    """What `system` is scored on."""
    mixture = bool(settings.systems[system].train.get("mixture"))
    for reading, of, changes in settings.readings():
        if of != system:
            continue
        for i, tested in enumerate(settings.tasks):
            folder = Path() if mixture else Path(build_task(tested.train).name)
            for task in tested.test:
                decoder = 0 if mixture else i
                yield Cell(
                    reading,
                    changes,
                    test_title(task),
                    task,
                    decoder,
                    folder / "decoder",
                )


class Scorer:
    """Scores decoders of one training run."""

    def __init__(self, settings: AccuracySettings, workshop: Workshop) -> None:
        self._settings = settings
        self._workshop = workshop
        self._groups: dict[str, list[Group]] = {}

    def score(
        self, cell: Cell, model: Any, training: TrainSettings, units: int | None
    ) -> Scores:
        """The first `units` units of the cell's test, as its reading reads them."""
        scheme = scheme_of(
            self._settings.reading(training, cell.changes), self._workshop.base, None
        )
        model.eval()
        groups = self._test(cell)[:units]
        return evaluate(
            scheme, model, groups, units_per_pass=self._settings.units_per_pass
        )

    def saved(self, cell: Cell, training: TrainSettings) -> Scores:
        """The final score of a decoder that was saved."""
        workshop = self._workshop
        directory = training.output / cell.folder
        decoder = Decoder.load(directory, workshop.base, workshop.model_id)
        return self.score(cell, decoder.model, training, self._settings.test_units)

    def _test(self, cell: Cell) -> list[Group]:
        key = cell.key(None)
        if key not in self._groups:
            tokenisation = self._workshop.tokenisation
            self._groups[key] = tokenisation.groups(build_task(cell.task), "test")
        return self._groups[key]
