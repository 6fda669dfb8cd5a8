"""The readings and tests of a system: in training, and of saved decoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefillshare.bench.accuracy.settings import AccuracySettings, test_title
from prefillshare.evals.answers import (
    Answers,
    generate_answers,
    score_answers,
    serving_prefill,
)
from prefillshare.evals.runner import Scores, evaluate
from prefillshare.models.decoder import Decoder
from prefillshare.training.data import Group
from prefillshare.training.decoders import scheme_of
from prefillshare.training.keys import chosen_task, digest
from prefillshare.training.prefixes import PrefixStore
from prefillshare.training.schemes.base import Scheme
from prefillshare.training.settings import (
    PrefixSettings,
    TaskSettings,
    TrainSettings,
    build_task,
)
from prefillshare.training.workshop import Workshop


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

    def answers_key(self, settings: AccuracySettings) -> str:
        """A digest of what generated answers depend on, beside the decoder."""
        return digest([self.key(settings.generate), settings.max_tokens])[:16]


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
                    settings.task_of(system, task),
                    decoder,
                    folder / "decoder",
                )


class Scorer:
    """Scores decoders of one training run."""

    def __init__(self, settings: AccuracySettings, workshop: Workshop) -> None:
        self._settings = settings
        self._workshop = workshop
        self._groups: dict[str, list[Group]] = {}
        # Agents and readings are tested over the same contexts.
        self._store = PrefixStore(PrefixSettings().memory_bytes)

    def score(
        self, cell: Cell, model: Any, training: TrainSettings, units: int | None
    ) -> Scores:
        """The first `units` units of the cell's test, as its reading reads them."""
        scheme = self._scheme(cell, training)
        model.eval()
        groups = self._test(cell)[:units]
        return evaluate(
            scheme, model, groups, units_per_pass=self._settings.units_per_pass
        )

    def saved(self, cell: Cell, training: TrainSettings) -> Scores:
        """The final score of a decoder that was saved."""
        model = self._load(cell, training).model
        served = _as_served(training)
        return self.score(cell, model, served, self._settings.test_units)

    def answers(self, cell: Cell, training: TrainSettings) -> Answers | None:
        """Marked answers of a decoder that was saved; None if it cannot be served so.

        Raises:
            SandboxError: the test runs programs and this machine cannot confine them.
        """
        decoder = self._load(cell, training)
        scheme = self._scheme(cell, _as_served(training))
        prefill = serving_prefill(scheme, decoder.model)
        if prefill is None:
            return None
        task = build_task(cell.task)
        tokenisation = self._workshop.tokenisation
        units = tokenisation.usable(task, "test")[: self._settings.generate]
        texts = generate_answers(
            prefill, decoder, tokenisation, units, max_tokens=self._settings.max_tokens
        )
        return score_answers(task, units, texts)

    def _load(self, cell: Cell, training: TrainSettings) -> Decoder:
        workshop = self._workshop
        directory = training.output / cell.folder
        return workshop.load(directory)

    def _scheme(self, cell: Cell, training: TrainSettings) -> Scheme:
        reading = self._settings.reading(training, cell.changes)
        return scheme_of(reading, self._workshop.base, self._store)

    def _test(self, cell: Cell) -> list[Group]:
        key = cell.key(None)
        if key not in self._groups:
            tokenisation = self._workshop.tokenisation
            self._groups[key] = tokenisation.groups(build_task(cell.task), "test")
        return self._groups[key]


def _as_served(training: TrainSettings) -> TrainSettings:
    """A saved decoder reads a cache, however it was trained."""
    return training.model_copy(update={"path": "cached"})
