"""Python functions to write, judged by their tests (HumanEval, arXiv 2107.03374).

Check a file and this machine with the solutions that the file itself carries::

    python -m prefillshare.tasks.humaneval HumanEval.jsonl.gz
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from prefillshare.config import Config
from prefillshare.errors import DataError, PrefillShareError
from prefillshare.tasks.base import Marks, Sample, Split, Unit
from prefillshare.tasks.rows import Row, read_rows
from prefillshare.tasks.sandbox.runner import Limits, Outcome, run

_REQUEST = (
    "Complete this Python function. Reply with the whole function in a code block."
)


class HumanEval(Config):
    """A file of JSON lines with `prompt`, `canonical_solution`, `test`, `entry_point`.

    HumanEval+ (arXiv 2305.01210) has the same columns. `limits` bound each program.
    """

    kind: Literal["humaneval"] = "humaneval"
    file: Path
    limits: Limits = Limits()
    name: str = "coder"
    suffix: str = ""

    def units(self, split: Split) -> list[Unit]:
        """One sample a unit; there is a test split alone.

        Raises:
            DataError: the file is unusable, or the training split is asked for.
        """
        if split == "train":
            raise DataError(
                f"{self.file}: problems to test with have no training split; train on "
                "another task, such as a recipe whose format is evol_code"
            )
        return [(sample_of(row, self.suffix),) for row in read_rows(self.file)]

    def score(self, sample: Sample, response: str) -> Marks:
        """Run the tests on `response`; the mean of `exact` is pass@1.

        Raises:
            SandboxError: this machine cannot confine a program.
        """
        return score(sample, response, self.limits)


def sample_of(row: Row, suffix: str = "") -> Sample:
    """A problem in chat form; `facts` are its `prompt`, `test` and `entry_point`.

    Raises:
        DataError: a column is missing or empty.
    """
    prompt, entry_point = row.text("prompt"), row.text("entry_point")
    if not entry_point.isidentifier():
        raise row.error("entry_point", f"is {entry_point!r}", "name a function")
    facts = {"prompt": prompt, "test": row.text("test"), "entry_point": entry_point}
    request = f"{_REQUEST}\n{_fenced(prompt)}"
    solution = row.text("canonical_solution")
    message = {"role": "user", "content": request}
    return Sample((message,), suffix, _fenced(prompt + solution), facts=facts)


def score(sample: Sample, response: str, limits: Limits) -> Marks:
    """Whether all tests of `sample` pass on the code in `response`."""
    return {"exact": outcome_of(sample, response, limits).passed}


def outcome_of(sample: Sample, response: str, limits: Limits) -> Outcome:
    """What became of the tests on the code in `response`.

    The prompt stays in front: helpers that it defines are at hand, and its own
    function, which is only a docstring so far, is replaced.
    """
    prompt, test, entry_point = (
        sample.facts[key] for key in ("prompt", "test", "entry_point")
    )
    code = _code_in(response, entry_point)
    program = "\n".join((f"{prompt}{code}", test, f"check({entry_point})", ""))
    return run(program, limits)


def _code_in(response: str, entry_point: str) -> str:
    """A function's body, or the whole function on a line of its own.

    Of several code blocks, the first that defines the function counts.
    """
    blocks = re.findall(
        r"^```[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", response, re.DOTALL | re.MULTILINE
    )
    defines = re.compile(rf"^(?:async )?def {entry_point}\b", re.MULTILINE)
    candidates = blocks or [response]
    code = next((each for each in candidates if defines.search(each)), candidates[0])
    return code if _is_indented(code) else f"\n{code}"


def _is_indented(code: str) -> bool:
    line = next((line for line in code.splitlines() if line.strip()), "")
    return line.startswith((" ", "\t"))


def _fenced(code: str) -> str:
    return f"```python\n{code.rstrip()}\n```"


def check_canonical(task: HumanEval) -> dict[str, Outcome]:
    """The problems whose own solutions do not pass, by entry point.

    Raises:
        DataError: the file is unusable.
        SandboxError: this machine cannot confine a program.
    """
    outcomes = {}
    for (sample,) in task.units("test"):
        outcome = outcome_of(sample, sample.answer, task.limits)
        if not outcome.passed:
            outcomes[str(sample.facts["entry_point"])] = outcome
    return outcomes


def main(argv: Sequence[str]) -> int:
    """Prints how many of a file's own solutions pass; 0 if all do."""
    if len(argv) != 1:
        sys.stderr.write("usage: python -m prefillshare.tasks.humaneval FILE\n")
        return 2
    task = HumanEval(file=Path(argv[0]))
    try:
        count = len(task.units("test"))
        failed = check_canonical(task)
    except PrefillShareError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for name, outcome in failed.items():
        sys.stdout.write(f"{name}: {outcome.reason}\n{outcome.output}\n")
    sys.stdout.write(f"{count - len(failed)} of {count} canonical solutions pass\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
