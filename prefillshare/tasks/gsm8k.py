"""Grade-school problems whose answers end in `#### n` (GSM8K, arXiv 2110.14168)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from prefillshare.config import Config
from prefillshare.tasks.base import NOT_SHOWN, Marks, Sample, Split, Unit
from prefillshare.tasks.rows import Row, read_rows
from prefillshare.tasks.scoring import final_number


class Gsm8k(Config):
    """Two files of JSON lines with `question` and `answer`.

    Without `with_context` the question is not shown: what can be guessed.
    """

    kind: Literal["gsm8k"] = "gsm8k"
    train: Path
    test: Path
    name: str = "solver"
    suffix: str = ""
    with_context: bool = True

    def units(self, split: Split) -> list[Unit]:
        """One sample a unit.

        Raises:
            DataError: the split's file is unusable.
        """
        path = self.train if split == "train" else self.test
        samples = (sample_of(row, self.suffix) for row in read_rows(path))
        if not self.with_context:
            asked = ({"role": "user", "content": NOT_SHOWN},)
            samples = (replace(sample, messages=asked) for sample in samples)
        return [(sample,) for sample in samples]

    def score(self, sample: Sample, response: str) -> Marks:
        """By number; see `score`."""
        return score(sample, response)


def sample_of(row: Row, suffix: str = "") -> Sample:
    """The problem as the user puts it, its worked answer as the reference.

    Raises:
        DataError: a column is missing, or the answer has no `#### n`.
    """
    answer = row.text("answer")
    if "####" not in answer or final_number(answer) is None:
        raise row.error(
            "answer", f"ends in {answer[-40:]!r}", "end it in `#### number`"
        )
    question = {"role": "user", "content": row.text("question").strip()}
    return Sample((question,), suffix, answer.strip())


def score(sample: Sample, response: str) -> Marks:
    """Whether the response's final number is the reference's."""
    return {"exact": final_number(response) == final_number(sample.answer)}
