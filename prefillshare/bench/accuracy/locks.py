"""One process to a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from prefillshare.errors import PrefillShareError


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else works in `folder` meanwhile; the lock goes with the process.

    Raises:
        PrefillShareError: somebody does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            yield
    except Timeout as error:
        raise PrefillShareError(
            f"another process works in {folder}; wait for it, or give it other "
            "systems with `only`"
        ) from error
