"""What a figure says of the checkout that made it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from prefillshare import runtime


@pytest.mark.parametrize(
    ("changed", "dirty"),
    [(None, False), ("docs/results/page.md", False), ("code.py", True)],
)
def test_a_changed_checkout_is_said_to_be_but_for_its_pages(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: str | None,
    dirty: bool,
) -> None:
    files = [tmp_path / "code.py", tmp_path / "docs" / "results" / "page.md"]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("one")
    who = ["-c", "user.name=n", "-c", "user.email=e"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    if changed is not None:
        (tmp_path / changed).write_text("two")
    monkeypatch.setattr(runtime, "_ROOT", tmp_path)
    commit = runtime.environment()["commit"]
    assert isinstance(commit, str) and commit.endswith("-dirty") == dirty
    assert len(commit.removesuffix("-dirty")) == 40
