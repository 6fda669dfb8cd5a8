"""Grade-school problems are scored by their final number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefillshare.errors import DataError
from prefillshare.tasks.base import Task
from prefillshare.tasks.gsm8k import Gsm8k


@pytest.fixture
def task(tmp_path: Path) -> Gsm8k:
    for split, answer in (("train", "2 + 2 = 4\n#### 4"), ("test", "#### 1,200")):
        row = {"question": f"How many in {split}?", "answer": answer}
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row))
    return Gsm8k(
        train=tmp_path / "train.jsonl", test=tmp_path / "test.jsonl", suffix="Solve it."
    )


def test_each_split_has_its_file(task: Gsm8k) -> None:
    checked: Task = task
    [[train]], [[test]] = checked.units("train"), checked.units("test")
    assert train.messages == ({"role": "user", "content": "How many in train?"},)
    assert train.answer == "2 + 2 = 4\n#### 4"
    assert test.answer == "#### 1,200"
    assert train.suffix == test.suffix == checked.suffix == "Solve it."


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("#### 1200", True),
        ("They earn $1,200.", True),
        ("1000 + 200 = 1200.00", True),
        ("#### 1200\nThat is 3 times 400.", True),
        ("1200, no:\n#### 1201", False),
        ("#### 1,20", False),
        ("many", False),
        ("", False),
    ],
)
def test_the_number_decides(response: str, right: bool, task: Gsm8k) -> None:
    [[sample]] = task.units("test")
    assert task.score(sample, response) == {"exact": right}


@pytest.mark.parametrize("answer", ["4", "#### four"])
def test_a_reference_without_a_number_is_refused(answer: str, task: Gsm8k) -> None:
    task.test.write_text(json.dumps({"question": "How many?", "answer": answer}))
    with pytest.raises(DataError, match="test.jsonl, row 1: column 'answer' ends in"):
        task.units("test")


def test_without_context_the_question_is_not_shown(task: Gsm8k) -> None:
    bare = task.model_copy(update={"with_context": False})
    [[shown]], [[hidden]] = task.units("test"), bare.units("test")
    assert "How many" not in hidden.messages[0]["content"]
    assert (hidden.answer, hidden.suffix) == (shown.answer, shown.suffix)
