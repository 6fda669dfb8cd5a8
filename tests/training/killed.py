"""Dies by SIGKILL at every line of saving a checkpoint; run as a program of its own.

python tests/training/killed.py FOLDER prints, as JSON, what could be loaded after each.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from prefillshare.training import checkpoint

# Where it dies: in the module itself and while it deletes folders.
FILES = {checkpoint.__file__, shutil.__file__}


def save(directory: Path, step: int) -> None:
    """A checkpoint whose weights and state both tell its step."""
    weights = {"w": torch.full((3,), float(step))}
    state = {"step": step, "optimizers": [torch.full((3,), float(step))]}
    checkpoint.save_checkpoint(directory, weights, state)


def die_at(line: int) -> None:
    """SIGKILL this process at the `line`-th line that it executes in `FILES`."""
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename not in FILES:
            return None
        seen += event == "line"
        if seen == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def killed_saving(directory: Path, line: int) -> bool:
    """Whether a process that saves step 2 was killed, at that line."""
    child = os.fork()
    if child == 0:
        die_at(line)
        save(directory, 2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def loaded(directory: Path) -> list[float]:
    """The step that is there by its state, and those by weights and optimizer."""
    found = checkpoint.load_checkpoint(directory)
    if found is None:
        return []
    weights, state = found
    held = {*weights["w"].tolist(), *state["optimizers"][0].tolist()}
    return [state["step"], *sorted(held)]


def main(folder: Path) -> int:
    """For one line after the other, until there is none left to die at."""
    torch.set_num_threads(1)
    outcomes = []
    for line in range(1, 10_000):
        directory = folder / str(line) / "checkpoint"
        save(directory, 1)
        if not killed_saving(directory, line):
            break
        after = loaded(directory)
        save(directory, 3)
        left = [each.name for each in directory.parent.iterdir()]
        outcomes.append({"after": after, "next": loaded(directory), "left": left})
    sys.stdout.write(json.dumps(outcomes))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
