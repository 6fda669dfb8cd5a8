"""Rows come out as they stand in the file, and errors name their place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from prefillshare.errors import DataError
from prefillshare.tasks.rows import Row, read_rows

ROWS = [{"a": "x\u2028y", "b": {"c": [1]}}, {"a": "", "b": 2}]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.jsonl", "\n".join(json.dumps(each, ensure_ascii=False) for each in ROWS)),
        ("r.jsonl", "\n\n".join(json.dumps(each) for each in ROWS) + "\n"),
        ("r.json", "\n".join(json.dumps(each) for each in ROWS)),
        ("r.json", json.dumps(ROWS, indent=1)),
    ],
)
def test_both_kinds_of_json_are_read(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    for path in (tmp_path / name, tmp_path / f"{name}.gz"):
        assert [row.columns for row in read_rows(path)] == ROWS


def test_one_object_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(ROWS[0], indent=1))
    assert [row.columns for row in read_rows(path)] == ROWS[:1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.jsonl", b'{"a": 1}\n\n{"a"', "r.jsonl, line 3: is not JSON"),
        ("r.jsonl", b'{"a": 1}\n[2]', r"r.jsonl, line 2: holds \[2\]; a row is"),
        ("r.json", b'[{"a": 1}, 2]', "r.json, row 2: holds 2; a row is"),
        ("r.json", b"[]", "r.json: has no rows"),
        ("r.jsonl", b"\n", "r.jsonl: has no rows"),
        ("r.jsonl", b"\xff", "r.jsonl: is not UTF-8"),
        ("r.jsonl.gz", b"{}", "r.jsonl.gz: cannot be read .*gzip"),
        ("r.jsonl.gz", gzip.compress(b"{}")[:-9], "r.jsonl.gz: cannot be read"),
        ("r.csv", b"a", "r.csv: rows are read from .json, .jsonl"),
    ],
)
def test_an_unusable_file_is_named(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="r.jsonl: there is no such file"):
        read_rows(tmp_path / "r.jsonl")


def test_a_column_is_checked() -> None:
    row = Row("f.jsonl, line 7", {"a": "x", "blank": " ", "n": None, "j": '{"k": [1]}'})
    assert row.text("a") == row.get("a", str) == "x"
    assert row.json("j", dict) == {"k": [1]}
    assert Row("", {"j": [2]}).json("j", list) == [2]
    place = "f.jsonl, line 7: column"
    for wrong, message in (
        (lambda: row.text("b"), r"'b' is missing \(columns: a, blank, n, j\); name"),
        (lambda: row.text("blank"), "'blank' is blank; fill it or remove the row"),
        (lambda: row.text("n"), "'n' holds None; write text there"),
        (lambda: row.get("a", list), "'a' holds 'x'; write an array there"),
        (lambda: row.json("j", list), r"'j' holds {'k': \[1\]}; write an array there"),
        (lambda: row.json("a", list), "'a' is no JSON: .*; correct it"),
        (lambda: row.json("b", list), "'b' is missing"),
    ):
        with pytest.raises(DataError, match=f"{place} {message}"):
            wrong()
