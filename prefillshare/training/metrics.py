"""The metrics log of a run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class StepLog:
    """One line of the log. `loss` in nats per response token.

    `tokens` counts prompts and responses of the step's examples, over all processes.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    seconds: float
    tokens: int

    @property
    def tokens_per_second(self) -> float:
        """Over all processes."""
        return self.tokens / self.seconds

    def scalars(self) -> dict[str, float]:
        """What trackers are told about the step."""
        figures = {k: v for k, v in vars(self).items() if k not in ("step", "steps")}
        return {**figures, "tokens_per_second": self.tokens_per_second}


@dataclass(frozen=True)
class RunSummary:
    """What a run's log comes to. `final_loss` in nats per response token."""

    steps: int
    final_loss: float
    tokens: int
    seconds: float

    @classmethod
    def of(cls, output: Path) -> RunSummary | None:
        """The run that wrote into `output`, the steps before a resumption included.

        None if the log is gone: a run that resumes at its end writes no line.
        """
        text = (output / METRICS_FILE).read_text()
        entries = [json.loads(line) for line in text.splitlines()]
        if not entries:
            return None
        tokens = sum(entry["tokens"] for entry in entries)
        seconds = sum(entry["seconds"] for entry in entries)
        last = entries[-1]
        return cls(last["step"], last["loss"], tokens, seconds)


class MetricsLog:
    """`metrics.jsonl`: one line a step; a resumed run drops the lines it repeats."""

    def __init__(self, output: Path, step: int, is_main: bool) -> None:
        self._path = output / METRICS_FILE
        self._step, self._is_main = step, is_main

    def __enter__(self) -> MetricsLog:
        if self._is_main:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            kept = self._path.read_text().splitlines() if self._path.exists() else []
            # A step's line counts once the checkpoint covers it.
            kept = kept[: self._step]
            fresh = self._path.with_suffix(".partial")
            fresh.write_text("".join(line + "\n" for line in kept))
            fresh.replace(self._path)
            self._file = self._path.open("a")
        return self

    def write(self, entry: StepLog) -> None:
        """Append one step's line."""
        if self._is_main:
            self._file.write(json.dumps(vars(entry)) + "\n")
            self._file.flush()

    def __exit__(self, *_: object) -> None:
        if self._is_main:
            self._file.close()
