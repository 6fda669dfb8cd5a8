"""The soak: many transfers under faults, every byte accounted for.

    python -m tests.transfer.soak --transfers 10000 --seed 1

It prints what it did, and exits with 1 if anything was lost, left behind or unnamed.
"""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.transfer.soak.cases import Case, Harm, Mode, waves
from tests.transfer.soak.stage import Stage
from tests.transfer.soak.verdict import HARMED, Record, complaints

MODES: tuple[Mode, ...] = ("plain", "sealed", "hosted")
# What a process may hold more at the end than after a fifth of the way.
MORE_RESIDENT = 24 << 20
Say = Callable[[str], None]


@dataclass
class Findings:
    """What happened, and what should not have."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    vitals: list[str] = field(default_factory=list)

    def count(self, what: str, which: str, by: int = 1) -> None:
        """Add to a table of counts."""
        self.counts.setdefault(what, Counter())[which] += by

    def enter(self, record: Record, mode: Mode) -> None:
        """Judge a transfer."""
        case = record.case
        self.count("transfers", "delivered" if record.delivered else "failed")
        self.count("kinds", f"{case.access}, {'fed' if case.fed else 'whole'}")
        if case.fault != "none":
            self.count(f"{mode}: faults of one transfer", case.fault)
        for error in record.tries:
            if error is not None:
                self.count("errors", error)
        if record.delivered:
            self.count("bytes", "delivered and compared", case.size)
        for complaint in complaints(record):
            self.wrong.append(f"{record}: {complaint}")

    def lines(self) -> Iterator[str]:
        """All of it as text."""
        for what, counter in self.counts.items():
            parts = (f"{which} {n:,}" for which, n in counter.most_common())
            yield f"{what}: {'; '.join(parts)}"
        yield from self.vitals
        yield from (f"WRONG: {text}" for text in self.wrong)


def soak(transfers: int, seed: int, say: Say, modes: tuple[Mode, ...]) -> Findings:
    """Run so many transfers, an even part of them in each mode."""
    findings = Findings()
    for index, mode in enumerate(modes):
        count = transfers // len(modes) + (index < transfers % len(modes))
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            _segment(Path(folder), mode, seed + index, count, findings, say)
    return findings


def _segment(
    folder: Path, mode: Mode, seed: int, count: int, findings: Findings, say: Say
) -> None:
    done = itertools.count()
    with Stage(mode, folder) as stage:
        before: dict[str, dict[str, Any]] | None = None
        passed = 0
        for wave in waves(seed, count):
            if before is None and passed >= count / 5:
                before = _quiet(stage, done)
            for record in stage.play(wave):
                findings.enter(record, mode)
            passed += len(wave.cases)
            findings.count("modes", mode, len(wave.cases))
            if wave.harm in HARMED:
                _recover(stage, wave.harm, done)
            if passed % 500 < len(wave.cases):
                say(f"{mode}: {passed} of {count}, {len(findings.wrong)} wrong")
        for harm in stage.sprung:
            findings.count(f"{mode}: harm to a wave", harm)
        assert before is not None
        _compare(mode, before, _quiet(stage, done), findings)
        stage.give_back()
    noise = stage.log.read_text()
    if "Traceback" in noise:
        findings.wrong.append(f"{mode}: a thread died:\n{noise[-4000:]}")


def _recover(stage: Stage, harm: Harm, numbers: Iterator[int]) -> None:
    number = 10**9 + next(numbers)
    stage.recovers(harm, Case(number, "write", 300_000, 5, 3, False, "none"))


def _quiet(stage: Stage, numbers: Iterator[int]) -> dict[str, dict[str, Any]]:
    """What all processes hold while nothing is under way."""
    for harm in ("none", "kill lender", "kill mover"):
        _recover(stage, harm, numbers)
    return stage.vitals()


def _compare(
    mode: Mode,
    before: dict[str, dict[str, Any]],
    after: dict[str, dict[str, Any]],
    findings: Findings,
) -> None:
    for name, was in before.items():
        now = after[name]
        parts = (f"{what} {was[what]:,} to {now[what]:,}" for what in was)
        findings.vitals.append(f"{mode}, {name}: {'; '.join(parts)}")
        for what, least in was.items():
            more = MORE_RESIDENT if what == "resident" else 0
            if now[what] > least + more:
                findings.wrong.append(f"{mode}, {name}: {what} grew")
