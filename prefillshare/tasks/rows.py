"""Rows of a data set, each of which knows where it stands."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prefillshare.errors import DataError

T = TypeVar("T")
JSON_ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
_JSON_NAMES: dict[Any, str] = {str: "text", dict: "an object", list: "an array"}


@dataclass(frozen=True)
class Row:
    """One row; `place` names the file and the row, for errors."""

    place: str
    columns: Mapping[str, Any]

    def get(self, column: str, kind: type[T]) -> T:
        """The value of a column.

        Raises:
            DataError: there is no such column, or it holds something else.
        """
        if column not in self.columns:
            has = ", ".join(self.columns) or "none"
            raise self.error(column, f"is missing (columns: {has})", "name the column")
        value = self.columns[column]
        if not isinstance(value, kind):
            wanted = _JSON_NAMES.get(kind, kind.__name__)
            raise self.error(column, f"holds {value!r:.80}", f"write {wanted} there")
        return value

    def text(self, column: str) -> str:
        """The text of a column, which must not be blank.

        Raises:
            DataError: there is no such column, or no text in it.
        """
        value = self.get(column, str)
        if not value.strip():
            raise self.error(column, "is blank", "fill it or remove the row")
        return value

    def json(self, column: str, kind: type[T]) -> T:
        """The value of a column that is written as JSON text, or as it is.

        Raises:
            DataError: there is no such column, or it holds something else.
        """
        value = self.columns.get(column)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise self.error(
                    column, f"is no JSON: {error}", "correct it"
                ) from error
            return Row(self.place, {column: value}).get(column, kind)
        return self.get(column, kind)

    def error(self, column: str, fact: str, remedy: str) -> DataError:
        """An error about a column of this row."""
        return DataError(f"{self.place}: column {column!r} {fact}; {remedy}")


def is_json(path: Path) -> bool:
    """Whether `read_rows` reads a file of this name."""
    return path.name.endswith(JSON_ENDINGS)


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, gzipped or not: JSON lines, one array, or one object.

    Raises:
        DataError: the file cannot be read, is no JSON, or has no rows.
    """
    if not is_json(path):
        endings = ", ".join(JSON_ENDINGS)
        raise DataError(f"{path}: rows are read from {endings}; name such a file")
    text = _read(path)
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        rows = list(_lines(path, text))
    else:
        values = whole if isinstance(whole, list) else [whole]
        rows = [_row(f"{path}, row {i + 1}", each) for i, each in enumerate(values)]
    if not rows:
        raise DataError(f"{path}: has no rows; name a file that has some")
    return rows


def _read(path: Path) -> str:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            return file.read().decode("utf-8")
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file; name one") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 ({error}); convert it") from error
    except (OSError, EOFError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); name a readable, whole file"
        ) from error


def _lines(path: Path, text: str) -> Iterator[Row]:
    # Not splitlines(): JSON text may hold the other characters that end lines there.
    for i, line in enumerate(text.split("\n")):
        if line.strip():
            place = f"{path}, line {i + 1}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{place}: is not JSON ({error}); correct or remove the line"
                ) from error
            yield _row(place, value)


def _row(place: str, value: Any) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{place}: holds {value!r:.80}; a row is a JSON object")
    return Row(place, value)
