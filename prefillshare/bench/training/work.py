"""One measurement of the training benchmark: what is asked for, and what is found.

    python -m prefillshare.bench.training.work WORK.json FOUND.json

A measurement runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from pydantic import Field
from transformers import AutoConfig

from prefillshare.bench.training.data import Scenario, generate, units_of
from prefillshare.config import Config
from prefillshare.training.data import Group
from prefillshare.training.decoders import DecoderExperiment
from prefillshare.training.metrics import StepLog
from prefillshare.training.settings import (
    BatchSettings,
    CaseFiles,
    LoraSettings,
    PrefixSettings,
    TrainSettings,
)
from prefillshare.training.trainer import Trainer

# The cached path, the same trainer with own prefill (which learns through its prompt as
# TRL does), and TRL without and with gradient checkpointing.
TrainerName = Literal["prefillshare", "prefillshare_own", "trl", "trl_checkpointed"]


class RunShape(Config):
    """What both trainers have in common. `threads: null` leaves them to torch.

    `warmup_steps` come before the `steps` that are timed.
    """

    method: Literal["lora", "full"] = "lora"
    lora: LoraSettings = LoraSettings()
    learning_rate: float = Field(2e-4, gt=0.0)
    warmup_steps: int = Field(1, ge=1)
    steps: int = Field(2, ge=1)
    seed: int = 0
    threads: int | None = Field(None, ge=1)
    compile: bool = False
    matmul_precision: Literal["highest", "high", "medium"] = "highest"


class Work(Config):
    """What one process is to measure."""

    trainer: TrainerName
    model: Path
    scenario: Scenario
    run: RunShape

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.run.warmup_steps + self.run.steps

    def groups(self) -> list[Group]:
        """The run's units: as many as its steps read, so none comes twice."""
        config = AutoConfig.from_pretrained(self.model, local_files_only=True)
        vocabulary = int(config.get_text_config().vocab_size)
        return generate(self.scenario, self.steps, vocabulary, self.run.seed)


class Found(Config):
    """What was measured over the timed steps; `losses` are those of all steps.

    `tokens` are of prompts and responses; `peak_memory_bytes` is the process's, or on
    a GPU what torch took there.
    """

    tokens: int
    seconds: float
    peak_memory_bytes: int
    losses: list[float]


class Laps:
    """When each step ended, its tokens and its loss."""

    def __init__(self, warmup_steps: int) -> None:
        self._warmup = warmup_steps
        self._times: list[float] = []
        self.tokens: list[int] = []
        self.losses: list[float] = []

    def step_ended(self) -> bool:
        """Note the time; returns whether the warm-up just ended."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._times.append(time.perf_counter())
        return len(self._times) == self._warmup

    def found(self) -> Found:
        """The measurement, at the end of the run."""
        return Found(
            tokens=sum(self.tokens[self._warmup :]),
            seconds=self._times[-1] - self._times[self._warmup - 1],
            peak_memory_bytes=peak_memory_bytes(),
            losses=self.losses,
        )


def peak_memory_bytes() -> int:
    """The most memory that this process ever had resident, or held on its GPU.

    Not getrusage's figure, which a child process takes over from its parent.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def measure(work: Work) -> Found:
    """Train and time, in this process."""
    if work.run.threads is not None:
        torch.set_num_threads(work.run.threads)
    with tempfile.TemporaryDirectory(prefix="training-speed-") as folder:
        if work.trainer in ("prefillshare", "prefillshare_own"):
            return _prefillshare(work, Path(folder))
        from prefillshare.bench.training.peer import trl

        return trl(work, Path(folder))


def _prefillshare(work: Work, folder: Path) -> Found:
    settings = _settings(work, folder)
    accelerator = Accelerator()
    experiment = DecoderExperiment(settings, accelerator.device)
    experiment.groups = [work.groups()]
    laps = Laps(work.run.warmup_steps)

    def show(entry: StepLog) -> None:
        laps.tokens.append(entry.tokens)
        laps.losses.append(entry.loss)
        if laps.step_ended():
            # The timed steps have to prefill a shared context themselves.
            experiment.store.close()

    Trainer(settings, experiment, accelerator).run(show)
    return laps.found()


def _settings(work: Work, folder: Path) -> TrainSettings:
    run, shared = work.run, work.scenario.shared > 0
    return TrainSettings(
        model=work.model,
        output=folder,
        prefill="own" if work.trainer == "prefillshare_own" else "shared",
        # Only its name is used: the benchmark's own units take its units' place.
        task=CaseFiles(agent="shipping", contexts=1, records=3, questions=1),
        method=run.method,
        lora=run.lora,
        learning_rate=run.learning_rate,
        warmup_steps=0,
        steps=work.steps,
        batch=BatchSettings(units=units_of(work.scenario)[0]),
        # No prompt comes twice, so there is nothing to keep but a shared context.
        prefixes=PrefixSettings() if shared else PrefixSettings(memory_bytes=0),
        compile=run.compile,
        matmul_precision=run.matmul_precision,
        seed=run.seed,
        checkpoint_every=work.steps + 1,
        resume=False,
    )


def main(argv: Sequence[str]) -> int:
    """Read the work, do it, write what was found."""
    asked, answer = map(Path, argv)
    work = Work.model_validate_json(asked.read_text(encoding="utf-8"))
    found = measure(work).model_dump()
    answer.write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
