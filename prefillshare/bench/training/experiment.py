"""How fast is cache-conditioned training beside ordinary fine-tuning with TRL?

The same examples, model, batch and optimizer, on one machine. The trainers take turns,
each measurement in a fresh process; a round measures each once, and the order turns
round with every round (A B C, C B A, …), so that drift of the machine cancels.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import Field

from prefillshare.bench.training.data import Scenario
from prefillshare.bench.training.peer import require_trl
from prefillshare.bench.training.work import Found, RunShape, TrainerName, Work
from prefillshare.errors import PrefillShareError
from prefillshare.report import progress

# TRL checkpoints gradients unless told otherwise, which saves memory and costs time: it
# is compared at its faster and at its smaller.
TRL: tuple[TrainerName, ...] = ("trl", "trl_checkpointed")
TRAINERS: tuple[TrainerName, ...] = ("prefillshare", "prefillshare_own", *TRL)


class TrainingSpeedSettings(RunShape):
    """`model: null` is SmolLM2-135M-Instruct from its package."""

    model: Path | None = None
    rounds: int = Field(2, ge=1)
    scenarios: list[Scenario] = Field(min_length=1)


def run_training_speed(settings: TrainingSpeedSettings, model: Path) -> dict[str, Any]:
    """Measure every scenario; `rows` are medians over the rounds.

    A row's `ratio` is how often as fast as that trainer the cached path is; in its own
    row, as the faster TRL.

    Raises:
        ConfigError: TRL is not installed.
        PrefillShareError: a measurement failed, or did not read what it should.
    """
    require_trl()
    rows, measurements = [], []
    total = len(settings.scenarios) * settings.rounds * len(TRAINERS)
    with progress("measuring", total, every=1) as tick:
        for scenario in settings.scenarios:
            found: dict[TrainerName, list[Found]] = {each: [] for each in TRAINERS}
            for trainer in _turns(settings.rounds):
                work = _work(settings, scenario, model, trainer)
                one = _measure(work)
                _require_tokens(work, one)
                found[trainer].append(one)
                tick(f"{scenario.name}, {trainer}: {one.tokens / one.seconds:.0f}/s")
                facts = {"scenario": scenario.name, "trainer": trainer}
                measurements.append(facts | one.model_dump())
            rows += _rows(scenario, found)
    trl = importlib.metadata.version("trl")
    return {"rows": rows, "measurements": measurements, "trl": trl}


def _turns(rounds: int) -> list[TrainerName]:
    return [
        trainer
        for number in range(rounds)
        for trainer in (TRAINERS if number % 2 == 0 else reversed(TRAINERS))
    ]


def _work(
    settings: TrainingSpeedSettings,
    scenario: Scenario,
    model: Path,
    trainer: TrainerName,
) -> Work:
    shape = {name: getattr(settings, name) for name in RunShape.model_fields}
    return Work(trainer=trainer, model=model, scenario=scenario, run=RunShape(**shape))


def _measure(work: Work) -> Found:
    with tempfile.TemporaryDirectory(prefix="training-speed-") as folder:
        asked, answer = Path(folder) / "work.json", Path(folder) / "found.json"
        asked.write_text(work.model_dump_json(), encoding="utf-8")
        command = [sys.executable, "-m", "prefillshare.bench.training.work"]
        done = subprocess.run(
            [*command, str(asked), str(answer)],
            capture_output=True,
            text=True,
            env=_environment(work),
        )
        if done.returncode != 0:
            raise PrefillShareError(
                f"measuring {work.trainer} on {work.scenario.name} ended with status "
                f"{done.returncode}; the end of its output says why:\n"
                f"{done.stderr[-2000:]}"
            )
        return Found.model_validate_json(answer.read_text(encoding="utf-8"))


def _environment(work: Work) -> dict[str, str]:
    variables = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if work.run.threads is not None:
        variables["OMP_NUM_THREADS"] = str(work.run.threads)
    return variables


def _require_tokens(work: Work, found: Found) -> None:
    expected = work.run.steps * work.scenario.tokens_per_step
    if found.tokens != expected:
        raise PrefillShareError(
            f"{work.trainer} read {found.tokens} tokens of {work.scenario.name} where "
            f"there are {expected}; its speed would mean nothing: use the versions "
            "that pyproject.toml names"
        )


def _rows(
    scenario: Scenario, found: dict[TrainerName, list[Found]]
) -> list[dict[str, Any]]:
    speeds = {n: [each.tokens / each.seconds for each in f] for n, f in found.items()}
    peaks = {n: [each.peak_memory_bytes for each in f] for n, f in found.items()}
    ours = median(speeds["prefillshare"])
    ratios = {name: ours / median(speeds[name]) for name in TRAINERS}
    # Its own row has what the target asks: the ratio to the faster TRL.
    ratios["prefillshare"] = min(ratios[name] for name in TRL)
    return [
        {
            "scenario": scenario.name,
            "trainer": name,
            "tokens_per_second": median(speeds[name]),
            "peak_memory_bytes": int(median(peaks[name])),
            "ratio": ratios[name],
            "spread": {
                "tokens_per_second": [min(speeds[name]), max(speeds[name])],
                "peak_memory_bytes": [min(peaks[name]), max(peaks[name])],
            },
        }
        for name in TRAINERS
    ]
