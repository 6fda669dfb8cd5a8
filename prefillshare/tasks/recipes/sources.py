"""Rows from a hub of data sets or from local files of the same columns."""

from __future__ import annotations

import csv
import random
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from prefillshare.config import Config
from prefillshare.errors import DataError
from prefillshare.tasks.rows import Row, is_json, read_rows

FormatName = Literal[
    "metamath",
    "gsm8k",
    "gsm_plus",
    "evol_code",
    "humaneval",
    "xlam",
    "bfcl",
    "messages",
]


class Source(Config):
    """One data set, either `hub` or `path`.

    Attributes:
        format: what its columns mean; see `formats`.
        hub: its name on the hub, `owner/name`.
        subset, split, revision: which part of it; for `hub` alone.
        file: one JSON file of the hub's repository, whose rows are taken as they
            stand (the hub's own reader gives all of them the same nested keys).
        path: a local .jsonl, .json (gzipped or not), .parquet or .csv file.
        answers: a second JSON file, of the same kind as the first, with more columns
            for the rows of the same `id`.
        rows: keep this many, drawn by `seed`.
        drop_unusable: leave out a row that cannot be used, and an example that the
            model's context does not hold, rather than refuse it.
    """

    format: FormatName
    hub: str | None = None
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    file: str | None = None
    path: Path | None = None
    answers: str | None = None
    rows: int | None = Field(None, ge=1)
    seed: int = 0
    drop_unusable: bool = False

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.hub is None) == (self.path is None):
            raise ValueError("name either hub or path")
        of_hub = {"subset", "split", "revision", "file"} & self.model_fields_set
        if self.path is not None and of_hub:
            raise ValueError(f"{', '.join(sorted(of_hub))} apply to hub alone")
        if self.answers is not None and self.hub is not None and self.file is None:
            raise ValueError("answers needs file: both are JSON files of the hub's")
        return self

    def load(self) -> list[Row]:
        """The rows, those that `rows` keeps in their order.

        Raises:
            DataError: the data set cannot be had or has too few rows.
        """
        rows = self._all()
        if self.answers is not None:
            rows = _joined(rows, self._json(self.answers))
        if self.rows is None:
            return rows
        if self.rows > len(rows):
            raise DataError(
                f"{self.hub or self.path}: has {len(rows)} rows; ask for no more, "
                f"not {self.rows}"
            )
        kept = random.Random(f"rows/{self.seed}").sample(range(len(rows)), self.rows)
        return [rows[i] for i in sorted(kept)]

    def _all(self) -> list[Row]:
        if self.hub is not None and self.file is None:
            return _from_hub(self.hub, self.subset, self.split, self.revision)
        name = str(self.path) if self.file is None else self.file
        if self.path is None or is_json(self.path):
            return self._json(name)
        return _from_table(self.path)

    def _json(self, name: str) -> list[Row]:
        """The rows of a JSON file: local, or in the hub's repository."""
        if self.hub is None:
            return read_rows(Path(name))
        from huggingface_hub import hf_hub_download

        try:
            path = hf_hub_download(
                self.hub, name, repo_type="dataset", revision=self.revision
            )
        # The hub's errors have no base of their own.
        except Exception as error:
            raise _not_had(f"{self.hub}: {name}", error) from error
        return read_rows(Path(path))


def _from_hub(
    hub: str, subset: str | None, split: str, revision: str | None
) -> list[Row]:
    import datasets

    try:
        table = datasets.load_dataset(hub, subset, split=split, revision=revision)
    # Nor have those of this library: OSError, ValueError and its own.
    except Exception as error:
        raise _not_had(f"{hub} ({split})", error) from error
    return _rows(f"{hub} ({split})", table)


def _from_table(path: Path) -> list[Row]:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; name one")
    readers = {".parquet": _parquet, ".csv": _csv}
    if path.suffix not in readers:
        raise DataError(
            f"{path}: rows are read from .jsonl, .json, .parquet and .csv files; "
            "name such a file"
        )
    try:
        return _rows(str(path), readers[path.suffix](path))
    except (OSError, ValueError, csv.Error) as error:
        kind = path.suffix.removeprefix(".")
        raise DataError(f"{path}: is no {kind} ({error}); name a whole file") from error


def _csv(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, restkey="beyond the last column"))


def _parquet(path: Path) -> list[dict[str, Any]]:
    import datasets

    # The rows are kept in memory; the library's copy of them is not.
    with tempfile.TemporaryDirectory(prefix="prefillshare-") as cache:
        try:
            table = datasets.load_dataset(
                "parquet", data_files=str(path), split="train", cache_dir=cache
            )
            return list(table)
        except datasets.exceptions.DatasetsError as error:
            raise ValueError(error.__cause__ or error) from error


def _rows(place: str, table: Iterable[Mapping[str, Any]]) -> list[Row]:
    rows = [Row(f"{place}, row {i + 1}", dict(each)) for i, each in enumerate(table)]
    if not rows:
        raise DataError(f"{place}: has no rows; name a data set that has some")
    return rows


def _joined(rows: Iterable[Row], answers: Iterable[Row]) -> list[Row]:
    by_id = {row.text("id"): row.columns for row in answers}
    joined = []
    for row in rows:
        found = by_id.get(row.text("id"))
        if found is None:
            raise row.error("id", f"is {row.text('id')!r}", "give it an answer")
        joined.append(Row(row.place, {**found, **row.columns}))
    return joined


def _not_had(what: str, error: Exception) -> DataError:
    return DataError(
        f"{what} cannot be had from the hub ({type(error).__name__}: {error}); check "
        "the name and the network, log in if access is granted by request, or "
        "download it and name the file as path"
    )
