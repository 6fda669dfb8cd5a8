"""What one system and seed came to, and the file that keeps it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prefillshare.errors import PrefillShareError
from prefillshare.evals.answers import Answers
from prefillshare.evals.runner import Scores
from prefillshare.files import replace_text


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
        made: where and with what it was trained: commit, versions, processor; more
            than one if it was cut short and went on elsewhere.
    """

    key: str
    trained: bool = False
    curve: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)
    finals: dict[str, Scores] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    made: list[dict[str, Any]] = field(default_factory=list)
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
        """Replace the file at `path`, all of it or nothing.

        Raises:
            CheckpointError: it could not be written.
        """
        replace_text(path, json.dumps(self._fields()))

    def publish(self, path: Path) -> None:
        """`save` it for people too: six digits, a line for each score."""
        fields = {key: _rounded(value) for key, value in self._fields().items()}
        replace_text(path, _lines(fields) + "\n")

    def _fields(self) -> dict[str, Any]:
        finals = {key: asdict(scores) for key, scores in self.finals.items()}
        answers = {key: x and asdict(x) for key, x in self.answers.items()}
        return {**vars(self), "finals": finals, "answers": answers}

    def started(self, environment: dict[str, Any]) -> None:
        """It is trained, or goes on, in `environment`."""
        if environment not in self.made:
            self.made.append(environment)

    def note(self, step: int, reading: str, test: str, scores: Scores) -> None:
        """Add one point to a curve."""
        points = self.curve.setdefault(reading, {}).setdefault(test, [])
        # A resumed run repeats the steps after its last checkpoint.
        points[:] = [point for point in points if point["step"] < step]
        nll, exact = (sum(x) / len(x) for x in (scores.nll, scores.exact))
        points.append({"step": step, "nll": nll, "exact_match": exact})


def _scores(fields: Mapping[str, Any]) -> Scores:
    return Scores(**dict(_tuples(fields)))


def _tuples(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in fields.items():
        yield key, tuple(value) if isinstance(value, list) else value


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        short = float(f"{value:.6g}")
        # Thousands of examples are right or wrong: 1 and 0 do.
        return int(short) if short.is_integer() else short
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(x) for x in value] if isinstance(value, list | tuple) else value


def _lines(value: Any, indent: str = "") -> str:
    """JSON with objects spread over lines, and lists on one."""
    if not isinstance(value, Mapping) or not value:
        return json.dumps(value)
    inner = indent + " "
    entries = [f"{inner}{json.dumps(k)}: {_lines(v, inner)}" for k, v in value.items()]
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}"
