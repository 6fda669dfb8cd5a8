"""What PROTOCOL.md says of frames and limits is so, and each failure has its test."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import prefillshare.errors
from prefillshare.transfer.base import Outcome
from prefillshare.transfer.tcp import frames

TESTS = Path(__file__).parents[1]
TEXT = Path(frames.__file__).parents[1].joinpath("PROTOCOL.md").read_text()
PACKAGES = ("tcp.", "agent.", "")


def rows(head: str) -> list[list[str]]:
    """The cells of all tables that begin with a head cell."""
    found, inside = [], False
    for line in TEXT.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells[0] == head:
            inside = True
        elif inside and set(cells[0]) != {"-"}:
            found.append(cells)
    assert found
    return found


FAILURES = rows("fault")


@pytest.mark.parametrize("cells", FAILURES, ids=lambda cells: cells[0])
def test_each_failure_names_tests_that_there_are(cells: list[str]) -> None:
    assert len(cells) == 6
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", cells[-1])
    assert named and cells[-1].count("`") == 2 * len(named)
    for file, test in named:
        assert test in functions(TESTS / file), f"{file}::{test}"


def functions(path: Path) -> set[str]:
    """What a file defines at its top."""
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_errors_and_ends_that_failures_name_exist() -> None:
    names = {each.name for each in Outcome} | set(vars(prefillshare.errors))
    told = {
        name
        for cells in FAILURES
        for cell in cells[1:3]
        for name in re.findall(r"`([A-Z]\w+)`", cell)
    }
    # A frame, and an argument that is wrong.
    assert told - names == {"Done", "ValueError"}


def test_all_frames_are_told_as_they_are() -> None:
    kinds: dict[int, type[frames.Frame]] = frames._KINDS
    said = {
        int(kind): (name, int(fixed), int(more))
        for kind, name, _, _, fixed, more in rows("kind")
    }
    assert said == {
        number: (kind.__name__, kind.layout.size, kind.tail or 0)
        for number, kind in kinds.items()
    }


def values(name: str) -> Iterator[object]:
    """What a name, `MODULE.CONSTANT`, stands for."""
    module, constant = name.split(".")
    for package in PACKAGES:
        try:
            found = import_module(f"prefillshare.transfer.{package}{module}")
        except ModuleNotFoundError:
            continue
        if hasattr(found, constant):
            yield getattr(found, constant)


@pytest.mark.parametrize("cells", rows("name"), ids=lambda cells: cells[0])
def test_limits_are_told_as_they_are(cells: list[str]) -> None:
    name, value, _ = cells
    assert value in {str(found) for found in values(name.strip("`"))}
