"""A disk for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.transfer.file.disk import Disk
from tests.transfer.pairs import nothing_left_behind


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A file engine on an empty folder; it is closed, and has left nothing behind."""
    with nothing_left_behind():
        made = Disk(tmp_path)
        yield made
        made.engine.close()
