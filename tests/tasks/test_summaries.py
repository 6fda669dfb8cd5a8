"""A summary stands in for a case file, and for nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from prefillshare.errors import DataError
from prefillshare.tasks.casefile.summaries import (
    Summaries,
    context_key,
    write_summaries,
)
from prefillshare.tasks.casefile.task import CaseFileTask

TASK = CaseFileTask("shipping", contexts=2, records=5, questions=2)


def kept(path: Path, task: CaseFileTask, count: int) -> CaseFileTask:
    contexts = [task.case("test", i).context for i in range(count)]
    about = {context_key(x): f"summary {i}" for i, x in enumerate(contexts)}
    write_summaries(path, Summaries({"model": "m"}, about))
    return replace(task, summaries=path)


def test_only_the_context_is_another(tmp_path: Path) -> None:
    task = kept(tmp_path / "summaries.json", TASK, 2)
    pairs = zip(TASK.units("test"), task.units("test"), strict=True)
    for i, (whole, summed) in enumerate(pairs):
        for full, short in zip(whole, summed, strict=True):
            assert short.messages[0]["content"] == f"summary {i}"
            assert short.messages[1:] == full.messages[1:]
            assert (short.answer, short.suffix) == (full.answer, full.suffix)
            # Nobody knows where the fact stands in the summary, or whether it does.
            assert full.fact_start is not None and short.fact_start is None


def test_a_case_file_that_was_not_summed_up_is_named(tmp_path: Path) -> None:
    task = kept(tmp_path / "summaries.json", TASK, 1)
    with pytest.raises(DataError, match="bridge eval` writes what is missing"):
        task.units("test")


@pytest.mark.parametrize(
    "text", ["[1]", '{"a": 1}', "{", '{"writer": {}, "texts": {"a": 1}}']
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "other.json").write_text(text)
    task = replace(TASK, summaries=tmp_path / "other.json")
    with pytest.raises(DataError, match="holds no summaries"):
        task.units("test")
    with pytest.raises(DataError, match="holds no summaries"):
        replace(TASK, summaries=tmp_path / "none.json").units("test")
