"""Directories and files that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from prefillshare.errors import CheckpointError

# What a full disk comes as: from the system, from torch, from safetensors.
_UNWRITTEN = (OSError, RuntimeError, SafetensorError)


@contextmanager
def written_whole(directory: Path, what: str, remedy: str = "") -> Iterator[Path]:
    """A fresh directory that takes the place of `directory` when the block ends.

    Its files are on the disk by then. If the block raises, what was there stays, and
    nothing half-written is left; a process that dies leaves `.partial` behind, which
    the next one removes, or `.old` (see `recovered`).

    Args:
        what: is written, for the message.
        remedy: follows the message.

    Raises:
        CheckpointError: it could not be written.
    """
    fresh = directory.with_name(directory.name + ".partial")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        yield fresh
        for path in fresh.rglob("*"):
            if path.is_file():
                _sync(path)
        _swap(fresh, directory)
    except _UNWRITTEN as error:
        raise CheckpointError(
            f"the {what} {directory} could not be written: {error}; free space or "
            f"choose another place, then start again{remedy}"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def replace_text(path: Path, text: str) -> None:
    """Put `text` in the place of what the file at `path` holds, if it is there.

    Until all of it is on the disk, what was there stays.

    Raises:
        CheckpointError: it could not be written; nothing half-written is left.
    """
    # Several processes may write one file: the last to finish has it.
    fresh = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(text)
        _sync(fresh)
        fresh.replace(path)
    except OSError as error:
        raise CheckpointError(
            f"{path} could not be written: {error}; free space or choose another "
            "place, then start again"
        ) from error
    finally:
        with suppress(OSError):
            fresh.unlink()


def recovered(directory: Path) -> bool:
    """Whether `directory` is there, be it that a replacement was cut short."""
    old = _old(directory)
    if not directory.exists() and old.exists():
        # The process died between the two renames of `_swap`.
        old.rename(directory)
    return directory.exists()


def _swap(fresh: Path, directory: Path) -> None:
    old = _old(directory)
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        directory.rename(old)
    fresh.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def _old(directory: Path) -> Path:
    return directory.with_name(directory.name + ".old")


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
