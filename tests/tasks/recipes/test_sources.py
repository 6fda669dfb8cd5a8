"""The same rows come out of every kind of file and of the hub's cache."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from prefillshare.config import load_config
from prefillshare.errors import ConfigError, DataError
from prefillshare.tasks.recipes.sources import Source

ROWS = [
    {"id": f"r{i}", "query": f"How many, {i}?", "response": str(i)} for i in range(9)
]
COMMIT = "0" * 40


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache of our own, and no network; returns the cache's folder."""
    cache = tmp_path / "hub"
    for library in ("huggingface_hub.constants", "datasets.config"):
        monkeypatch.setattr(f"{library}.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    return cache


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(each) + "\n" for each in rows)


def columns(source: Source) -> list[dict[str, Any]]:
    return [dict(row.columns) for row in source.load()]


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "csv"])
def test_local_files_hold_the_same_rows(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        datasets.Dataset.from_list(ROWS).to_parquet(path)
    elif kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ROWS[0])
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        path.write_text(lines(ROWS) if kind == "jsonl" else json.dumps(ROWS))
    source = Source(format="metamath", path=path)
    assert columns(source) == ROWS
    assert str(path) in source.load()[3].place
    assert "4" in source.load()[3].place


def test_nested_values_of_parquet_are_as_they_were(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "Hi"}]}]
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_list(rows).to_parquet(path)
    assert columns(Source(format="messages", path=path)) == rows


def test_a_data_set_is_loaded_by_name_and_split(tmp_path: Path) -> None:
    # The library takes a folder for a name on the hub.
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "train.jsonl").write_text(lines(ROWS))
    (tmp_path / "owner" / "test.jsonl").write_text(lines(ROWS[:2]))
    source = Source(format="metamath", hub=str(tmp_path / "owner"), split="test")
    assert columns(source) == ROWS[:2]
    assert source.load()[1].place == f"{tmp_path / 'owner'} (test), row 2"


def test_a_file_of_the_hub_is_read_as_it_stands(offline: Path) -> None:
    # Rows whose objects have other keys, which the library would make all alike.
    questions = [{"id": "a", "f": {"x": 1}}, {"id": "b", "f": {"y": 2}}]
    answers = [{"id": "b", "truth": [2]}, {"id": "a", "truth": [1]}]
    repository = offline / "datasets--owner--name"
    snapshot = repository / "snapshots" / COMMIT
    (snapshot / "sub").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (snapshot / "q.json").write_text(lines(questions))
    (snapshot / "sub" / "a.json").write_text(lines(answers))
    source = Source(
        format="bfcl", hub="owner/name", file="q.json", answers="sub/a.json"
    )
    assert columns(source) == [
        {"id": "a", "f": {"x": 1}, "truth": [1]},
        {"id": "b", "f": {"y": 2}, "truth": [2]},
    ]


def test_answers_are_joined_by_id(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(lines(ROWS[:2]))
    (tmp_path / "a.jsonl").write_text(lines([{"id": "r1", "truth": 1}]))
    answers = str(tmp_path / "a.jsonl")
    source = Source(format="bfcl", path=tmp_path / "q.jsonl", answers=answers)
    with pytest.raises(DataError, match="q.jsonl, line 1: column 'id' is 'r0'; give"):
        source.load()


def test_some_rows_are_drawn_by_seed(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(lines(ROWS))
    drawn = [
        columns(Source(format="metamath", path=path, rows=5, seed=seed))
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    for rows in drawn:
        assert [each for each in ROWS if each in rows] == rows
        assert len(rows) == 5
    with pytest.raises(DataError, match="has 9 rows; ask for no more, not 10"):
        Source(format="metamath", path=path, rows=10).load()


@pytest.mark.parametrize("file", [None, "q.json"])
def test_what_the_hub_does_not_give_is_named(file: str | None) -> None:
    source = Source(format="metamath", hub="owner/name", file=file)
    with pytest.raises(DataError, match="owner/name.* cannot be had .*log in"):
        source.load()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.txt", b"", r"r.txt: rows are read from .jsonl, .json, .parquet and .csv"),
        ("r.parquet", b"PAR", "r.parquet: is no parquet"),
        ("r.csv", b"", "r.csv: has no rows"),
        ("r.csv", b"query\n\xff\n", "r.csv: is no csv"),
        ("r.csv", b"query,response\n", "r.csv: has no rows"),
        ("r.parquet", None, "r.parquet: there is no such file"),
    ],
)
def test_an_unusable_table_is_named(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        Source(format="metamath", path=tmp_path / name).load()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{format: gsm8k}", "name either hub or path"),
        ("{format: gsm8k, hub: a/b, path: c}", "name either hub or path"),
        ("{format: gsm8k, path: c, split: test}", "split apply to hub alone"),
        ("{format: bfcl, hub: a/b, answers: c}", "answers needs file"),
        ("{format: bflc, path: c}", "expected 'metamath', 'gsm8k'"),
    ],
)
def test_contradictory_settings_are_refused(
    settings: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "source.yaml"
    path.write_text(settings)
    with pytest.raises(ConfigError, match=message):
        load_config(Source, path, [])
