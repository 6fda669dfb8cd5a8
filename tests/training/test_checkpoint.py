"""Checkpoints on a disk that is full."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from prefillshare.errors import CheckpointError
from prefillshare.training.checkpoint import load_checkpoint, save_checkpoint


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """The kernel lets no file grow past `size` bytes: as good as a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("big", ["weights", "optimizer"])
def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path, big: str) -> None:
    sizes = {"weights": 4, "optimizer": 4, big: 1_000_000}
    weights = {"w": torch.ones(sizes["weights"])}
    state = {"step": 2, "optimizer": torch.ones(sizes["optimizer"])}
    save_checkpoint(tmp_path / "c", {"w": torch.ones(3)}, {"step": 1})
    with (
        no_file_beyond(100_000),
        pytest.raises(CheckpointError, match="could not be written.*free space"),
    ):
        save_checkpoint(tmp_path / "c", weights, state)
    loaded = load_checkpoint(tmp_path / "c")
    assert loaded is not None
    assert loaded[1]["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
