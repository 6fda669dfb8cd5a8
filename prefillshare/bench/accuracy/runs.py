"""Making a run: one system and seed, trained, scored, and kept.

`run.json` in its folder grows with every point of the curve and with every final score.
The decoders stay beside it, so that a test or a reading that is added to the experiment
later is scored without training them again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from accelerate import Accelerator

from prefillshare.bench.accuracy.locks import alone
from prefillshare.bench.accuracy.modules import module_directory, tune, tuning_key
from prefillshare.bench.accuracy.run import Run
from prefillshare.bench.accuracy.scoring import Cell, Scorer, cells
from prefillshare.bench.accuracy.settings import AccuracySettings
from prefillshare.kv.identity import ModelId
from prefillshare.models.bridge.storage import bridge_origin
from prefillshare.report import progress, say
from prefillshare.runtime import environment
from prefillshare.training.decoders import decoder_run
from prefillshare.training.keys import chosen, digest
from prefillshare.training.metrics import StepLog
from prefillshare.training.settings import FREE_SETTINGS, TrainSettings
from prefillshare.training.workshop import Workshop


def run_system(
    settings: AccuracySettings, system: str, seed: int, model: Path
) -> Run | None:
    """The run of `system` and `seed`: as it was kept, or made now.

    Returns None if it is not finished and `settings.only` leaves it to another process.
    """
    module = settings.systems[system].module
    base, identity = model, ModelId.from_directory(model).digest
    if module is not None:
        tuning = settings.module_training(module, seed, model)
        base, identity = module_directory(tuning), tuning_key(tuning, identity)
    training = settings.training(system, seed, base)
    key = _key(training, identity)
    work, kept = training.output / "run.json", settings.kept(system, seed)
    run = Run.load(work if work.exists() or kept is None else kept, key)
    if not _left(settings, system, run):
        return run
    if settings.only and system not in settings.only:
        return None
    if module is not None:
        tune(settings, module, seed, model)
    with alone(training.output):
        run = _make(settings, system, training, run)
    if kept is not None:
        run.publish(kept)
    return run


def _key(training: TrainSettings, base: str) -> str:
    """A digest of what the decoders depend on; models and bridges by their contents."""
    free = FREE_SETTINGS | {"decoder_model", "bridge"}
    about = {"base": base, "training": chosen(training, training.every_task(), free)}
    if training.decoder_model is not None:
        about["decoder_model"] = ModelId.from_directory(training.decoder_model).digest
    if training.bridge is not None:
        about["bridge"] = bridge_origin(training.bridge)
    return digest(about)


def _left(settings: AccuracySettings, system: str, run: Run) -> list[Cell]:
    """What is not scored yet, or not answered."""
    return _unscored(settings, system, run) + _unanswered(settings, system, run)


def _unscored(settings: AccuracySettings, system: str, run: Run) -> list[Cell]:
    units = settings.test_units
    return [c for c in cells(settings, system) if c.key(units) not in run.finals]


def _unanswered(settings: AccuracySettings, system: str, run: Run) -> list[Cell]:
    if settings.generate is None:
        return []
    every = cells(settings, system)
    return [cell for cell in every if cell.answers_key(settings) not in run.answers]


def _make(
    settings: AccuracySettings, system: str, training: TrainSettings, run: Run
) -> Run:
    """Train, unless that is done and the decoders are there; score and answer."""
    path = training.output / "run.json"
    folders = [training.output / cell.folder for cell in cells(settings, system)]
    if run.trained and not all(folder.exists() for folder in folders):
        # Its scores were kept without its decoders, which new tests need.
        run = Run(run.key)
    if not run.trained:
        _train(settings, system, training, run, path)
    _score(settings, system, training, run, path)
    _answer(settings, system, training, run, path)
    return run


def _train(
    settings: AccuracySettings,
    system: str,
    training: TrainSettings,
    run: Run,
    path: Path,
) -> None:
    run.started(environment())
    experiment, trainer = decoder_run(training)
    scorer = Scorer(settings, experiment.workshop)
    with progress(f"{system}, seed {training.seed}", trainer.settings.steps) as tick:

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
    left = _unscored(settings, system, run)
    if not left:
        return
    scorer = Scorer(settings, Workshop.open(training, Accelerator().device))
    for cell in left:
        scores = scorer.saved(cell, training)
        run.finals[cell.key(settings.test_units)] = scores
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
