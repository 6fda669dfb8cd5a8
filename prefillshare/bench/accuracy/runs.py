"""Making a run: one system and seed, trained, scored, and kept.

`run.json` in its folder grows with every point of the curve and with every final score.
The decoders stay beside it, so that a test or a reading that is added to the experiment
later is scored without training them again.
"""

from __future__ import annotations

import shutil

from accelerate import Accelerator

from prefillshare.bench.accuracy.locks import alone
from prefillshare.bench.accuracy.modules import provenance, tune
from prefillshare.bench.accuracy.plan import Plan
from prefillshare.bench.accuracy.run import Run
from prefillshare.bench.accuracy.scoring import Scorer, cells
from prefillshare.report import progress, say
from prefillshare.runtime import environment
from prefillshare.training.decoders import decoder_run
from prefillshare.training.metrics import StepLog
from prefillshare.training.workshop import Workshop


def run_system(plan: Plan) -> Run | None:
    """The planned run: as it was kept, or made now.

    Returns None if it is not finished and not this process's to make (`only`, `make`).
    """
    run = plan.load()
    left = plan.left(run)
    if left:
        if not plan.is_ours(run):
            return None
        if plan.tuning is not None:
            module = plan.settings.systems[plan.system].module
            title = f"tuning the prefill module {module}, seed {plan.tuning.seed}"
            tune(plan.tuning, plan.base, title)
        with alone(plan.training.output):
            run = _make(plan, run)
    # One that ended before it was published is, now.
    if plan.kept is not None and (left or not plan.kept.exists()):
        run.publish(plan.kept)
    return run


def _make(plan: Plan, run: Run) -> Run:
    """Train, unless that is done and the decoders are there; score and answer."""
    every = cells(plan.settings, plan.system)
    folders = [plan.training.output / cell.folder for cell in every]
    if run.trained and not all(folder.exists() for folder in folders):
        # Its scores were kept without its decoders, which new tests need.
        run = Run(run.key)
    if not run.trained:
        _train(plan, run)
    _score(plan, run)
    _answer(plan, run)
    return run


def _train(plan: Plan, run: Run) -> None:
    settings, system, training = plan.settings, plan.system, plan.training
    module = None if plan.tuning is None else provenance(plan.tuning)
    run.started(environment() | ({"module": module} if module else {}))
    experiment, trainer = decoder_run(training)
    scorer = Scorer(settings, experiment.workshop)
    with progress(f"{system}, seed {training.seed}", trainer.settings.steps) as tick:

        def show(entry: StepLog) -> None:
            # A resumed run repeats the steps after its last checkpoint.
            run.seconds[entry.step - 1 :] = [entry.seconds]
            tick(f"loss {entry.loss:.3f}")
            if entry.step % settings.evaluate_every and entry.step < entry.steps:
                return
            for cell in cells(settings, system):
                model = experiment.decoders[cell.decoder].model
                scores = scorer.score(cell, model, training, settings.curve_units)
                run.note(entry.step, cell.reading, cell.test, scores)
            run.save(plan.work)

        trainer.run(show)
    run.trained = True
    run.save(plan.work)
    shutil.rmtree(training.output / "checkpoint", ignore_errors=True)


def _score(plan: Plan, run: Run) -> None:
    """Score what is not scored yet."""
    settings, training, left = plan.settings, plan.training, plan.unscored(run)
    if not left:
        return
    scorer = Scorer(settings, Workshop.open(training, Accelerator().device))
    for cell in left:
        scores = scorer.saved(cell, training)
        run.finals[cell.key(settings.test_units)] = scores
        run.save(plan.work)
        exact = sum(scores.exact) / len(scores.exact)
        say(f"{cell.reading}, seed {training.seed}, {cell.test}: {exact:.1%}")


def _answer(plan: Plan, run: Run) -> None:
    """Generate and mark what is not answered yet."""
    settings, training, left = plan.settings, plan.training, plan.unanswered(run)
    if not left:
        return
    scorer = Scorer(settings, Workshop.open(training, Accelerator().device))
    for cell in left:
        answers = scorer.answers(cell, training)
        run.answers[cell.answers_key(settings)] = answers
        run.save(plan.work)
        if answers is not None:
            count = len(answers.texts)
            say(f"{cell.reading}, seed {training.seed}, {cell.test}: {count} answers")
