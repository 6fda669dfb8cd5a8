"""README's snippet runs, and its tree is the one on disk."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_snippet_runs(capsys: pytest.CaptureFixture[str]) -> None:
    snippet = re.findall(r"```python\n(.*?)```", README, re.S)[0]
    exec(compile(snippet, "README.md", "exec"), {})
    told = r"^(\w+): (\d+) of (\d+) tokens read; ."
    found = re.findall(told, capsys.readouterr().out, re.M)
    (shipping, first, whole), (invoicing, second, same) = found
    assert (shipping, invoicing) == ("shipping", "invoicing")
    # Both generate from a cache of the same length, which one of them read.
    assert first == whole == same != "0" and second == "0"


def test_the_tree_is_on_disk() -> None:
    rooms = set(re.findall(r"^  (\w+)/ ", README, re.M))
    on_disk = {p.parent.name for p in (ROOT / "prefillshare").glob("*/__init__.py")}
    assert rooms == on_disk


@pytest.mark.parametrize(
    "path", re.findall(r"(?:configs|docs|train|serve)/[\w./-]+\.\w+", README)
)
def test_every_named_file_exists(path: str) -> None:
    assert (ROOT / path).is_file()
