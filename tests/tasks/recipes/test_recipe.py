"""A recipe's splits have formats of their own, and its configs load."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from prefillshare.config import load_config
from prefillshare.errors import DataError
from prefillshare.tasks.base import Task
from prefillshare.tasks.recipes.recipe import Recipe
from prefillshare.tasks.recipes.sources import Source
from prefillshare.training.settings import TrainSettings

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "recipes"
QUESTION = {"question": "1 + 1?", "answer": "#### 2"}
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]


def source(path: Path, rows: list[dict[str, Any]], **settings: Any) -> Source:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return Source(path=path, **settings)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return Recipe(
        name="talker",
        suffix="Answer.",
        train=source(
            tmp_path / "train.jsonl", [{"messages": TURNS * 2}], format="messages"
        ),
        test=source(tmp_path / "test.jsonl", [QUESTION], format="gsm8k"),
    )


def test_each_split_is_read_and_scored_by_its_format(recipe: Recipe) -> None:
    checked: Task = recipe
    [conversation], [[problem]] = checked.units("train"), checked.units("test")
    assert [sample.answer for sample in conversation] == ["Ho", "Ho"]
    assert {sample.suffix for sample in (*conversation, problem)} == {"Answer."}
    assert checked.score(conversation[0], "Ho") == {"exact": True}
    assert checked.score(conversation[0], "2") == {"exact": False}
    assert checked.score(problem, "So 2.") == {"exact": True}


def test_a_split_that_is_left_out_is_named(recipe: Recipe) -> None:
    with pytest.raises(DataError, match="talker: has no test data; set task.test"):
        recipe.model_copy(update={"test": None}).units("test")


def test_unusable_rows_are_refused_or_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rows.jsonl"
    strict = source(path, [QUESTION, {}, QUESTION], format="gsm8k")
    with pytest.raises(DataError, match="rows.jsonl, line 2: column 'answer'"):
        Recipe(name="solver", test=strict).units("test")
    lenient = strict.model_copy(update={"drop_unusable": True})
    with caplog.at_level(logging.WARNING):
        assert len(Recipe(name="solver", test=lenient).units("test")) == 2
    assert "left out 1 rows, the first:" in caplog.text
    path.write_text("{}\n")
    with pytest.raises(DataError, match="no row of this data set is usable"):
        Recipe(name="solver", test=lenient).units("test")


def task_of(path: Path, overrides: list[str]) -> Recipe:
    task = load_config(TrainSettings, path, overrides).task
    assert isinstance(task, Recipe)
    return task


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_a_shipped_recipe_loads(path: Path) -> None:
    task = task_of(path, [])
    for split in (task.train, task.test):
        assert split is not None
        assert split.hub is not None


def test_local_files_take_the_place_of_the_hub(recipe: Recipe) -> None:
    assert recipe.train is not None
    override = f"task.train={{format: messages, path: {recipe.train.path}}}"
    [path, *_] = sorted(CONFIGS.glob("*.yaml"))
    task = task_of(path, [override])
    assert len(task.units("train")) == 1
