"""One system and seed: trained, scored, and kept.

`run.json` in its folder grows with every point of the curve and with every final score.
The decoders stay beside it, so that a test or a reading that is added to the experiment
later is scored without training them again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from filelock import FileLock, Timeout

from prefillshare.bench.accuracy.keys import chosen, digest
from prefillshare.bench.accuracy.scoring import Cell, Scorer, cells
from prefillshare.bench.accuracy.settings import AccuracySettings
from prefillshare.errors import PrefillShareError
from prefillshare.evals.answers import Answers
from prefillshare.evals.runner import Scores
from prefillshare.kv.identity import ModelId
from prefillshare.report import progress, say
from prefillshare.runtime import environment
from prefillshare.training.decoders import Workshop, decoder_run
from prefillshare.training.metrics import StepLog
from prefillshare.training.readable import prefill_trainer
from prefillshare.training.settings import (
    FREE_SETTINGS,
    PrefillSettings,
    TrainSettings,
)


@dataclass
class Run:
    """What one system and seed came to.

    Attributes:
        key: a digest of everything that the decoders depend on.
        trained: whether they are there, trained to the end.
        curve: by reading and test, points of step, nll and exact_match.
        finals: scores of the trained decoders, by `Cell.key`.
        answers: theirs, generated and marked, by `Cell.answers_key`; None where a
            reading cannot be served.
        seconds: of each training step.
        made: where and with what it was trained: commit, versions, processor.
    """

    key: str
    trained: bool = False
    curve: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)
    finals: dict[str, Scores] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    made: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Answers | None] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, key: str) -> Run:
        """The run kept at `path`, or a fresh one.

        Raises:
            PrefillShareError: another experiment's run is there.
        """
        if not path.exists():
            return cls(key)
        stored = json.loads(path.read_text())
        if stored["key"] != key:
            raise PrefillShareError(
                f"{path} was made with other settings; choose another `output`, or "
                "delete that folder"
            )
        finals = {k: _scores(fields) for k, fields in stored.pop("finals").items()}
        answers = {
            k: fields and Answers(**fields)
            for k, fields in stored.pop("answers", {}).items()
        }
        return cls(**stored, finals=finals, answers=answers)

    def save(self, path: Path) -> None:
        """Replace the file at `path`, all of it or nothing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".partial")
        finals = {key: asdict(scores) for key, scores in self.finals.items()}
        answers = {key: x and asdict(x) for key, x in self.answers.items()}
        kept = {**vars(self), "finals": finals, "answers": answers}
        fresh.write_text(json.dumps(kept))
        fresh.replace(path)

    def note(self, step: int, reading: str, test: str, scores: Scores) -> None:
        """Add one point to a curve."""
        points = self.curve.setdefault(reading, {}).setdefault(test, [])
        # A resumed run repeats the steps after its last checkpoint.
        points[:] = [point for point in points if point["step"] < step]
        nll, exact = (sum(x) / len(x) for x in (scores.nll, scores.exact))
        points.append({"step": step, "nll": nll, "exact_match": exact})


def run_system(
    settings: AccuracySettings, system: str, seed: int, model: Path
) -> Run | None:
    """The run of `system` and `seed`: as it was kept, or made now.

    Returns None if it is not finished and `settings.only` leaves it to another process.
    """
    mine = not settings.only or system in settings.only
    base = _module(settings, settings.systems[system].module, seed, model, mine)
    if base is None:
        return None
    training = settings.training(system, seed, base)
    path = training.output / "run.json"
    run = Run.load(path, _key(training))
    if mine:
        with _alone(training.output):
            if not run.trained:
                _train(settings, system, training, run, path)
            _score(settings, system, training, run, path)
            _answer(settings, system, training, run, path)
    wanted = {cell.key(settings.test_units) for cell in cells(settings, system)}
    scored = wanted <= run.finals.keys()
    return run if scored and not _unanswered(settings, system, run) else None


def _train(
    settings: AccuracySettings,
    system: str,
    training: TrainSettings,
    run: Run,
    path: Path,
) -> None:
    run.made = environment()
    experiment, trainer = decoder_run(training)
    scorer = Scorer(settings, experiment.workshop)
    with progress(f"{system}, seed {training.seed}", training.steps) as tick:

        def show(entry: StepLog) -> None:
            run.seconds.append(entry.seconds)
            tick(f"loss {entry.loss:.3f}")
            if entry.step % settings.evaluate_every and entry.step < entry.steps:
                return
            for cell in cells(settings, system):
                model = experiment.decoders[cell.decoder].model
                scores = scorer.score(cell, model, training, settings.curve_units)
                run.note(entry.step, cell.reading, cell.test, scores)
            run.save(path)

        trainer.run(show)
    run.trained = True
    run.save(path)
    shutil.rmtree(training.output / "checkpoint", ignore_errors=True)


def _score(
    settings: AccuracySettings,
    system: str,
    training: TrainSettings,
    run: Run,
    path: Path,
) -> None:
    """Score what is not scored yet."""
    units = settings.test_units
    left = [c for c in cells(settings, system) if c.key(units) not in run.finals]
    if not left:
        return
    scorer = Scorer(settings, Workshop.open(training, Accelerator().device))
    for cell in left:
        scores = run.finals[cell.key(units)] = scorer.saved(cell, training)
        run.save(path)
        exact = sum(scores.exact) / len(scores.exact)
        say(f"{cell.reading}, seed {training.seed}, {cell.test}: {exact:.1%}")


def _answer(
    settings: AccuracySettings,
    system: str,
    training: TrainSettings,
    run: Run,
    path: Path,
) -> None:
    """Generate and mark what is not answered yet."""
    left = _unanswered(settings, system, run)
    if not left:
        return
    scorer = Scorer(settings, Workshop.open(training, Accelerator().device))
    for cell in left:
        answers = scorer.answers(cell, training)
        run.answers[cell.answers_key(settings)] = answers
        run.save(path)
        if answers is not None:
            count = len(answers.texts)
            say(f"{cell.reading}, seed {training.seed}, {cell.test}: {count} answers")


def _unanswered(settings: AccuracySettings, system: str, run: Run) -> list[Cell]:
    if settings.generate is None:
        return []
    every = cells(settings, system)
    return [cell for cell in every if cell.answers_key(settings) not in run.answers]


def _module(
    settings: AccuracySettings, name: str | None, seed: int, model: Path, make: bool
) -> Path | None:
    """The directory of a prefill module, tuned now if it is not there."""
    if name is None:
        return model
    training = settings.module_training(name, seed, model)
    directory, made_by = training.output / "module", training.output / "made_by.json"
    key = _key(training)
    if directory.exists():
        _require_made_by(made_by, key)
        return directory
    if not make:
        return None
    with _alone(training.output):
        made_by.write_text(json.dumps({"key": key}))
        trainer = prefill_trainer(training)
        title = f"tuning the prefill module {name}, seed {seed}"
        with progress(title, training.steps) as tick:
            return trainer.run(lambda entry: tick(f"loss {entry.loss:.3f}"))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else works in `folder` meanwhile; the lock goes with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            yield
    except Timeout as error:
        raise PrefillShareError(
            f"another process works in {folder}; wait for it, or give it other "
            "systems with `only`"
        ) from error


def _require_made_by(path: Path, key: str) -> None:
    if not path.exists() or json.loads(path.read_text())["key"] != key:
        raise PrefillShareError(
            f"{path.parent} holds a prefill module that was not tuned with these "
            "settings; choose another `output` for it, or delete that folder"
        )


def _key(training: TrainSettings | PrefillSettings) -> str:
    base = ModelId.from_directory(training.model).digest
    return digest({"base": base, "training": chosen(training, FREE_SETTINGS)})


def _scores(fields: Mapping[str, Any]) -> Scores:
    return Scores(**dict(_tuples(fields)))


def _tuples(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in fields.items():
        yield key, tuple(value) if isinstance(value, list) else value
