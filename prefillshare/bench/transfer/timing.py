"""Runs a peer's program and adds to its lines what only its own process can know.

    PYTHON timing.py FOLDER/PEER_bench.py

The programs share a module `common`, whose `timed` runs a transfer once to warm up and
then by the clock, and whose `row` and `lat` print. These are replaced, so that
processor time and memory are those of the clocked part, of this process and of those
that it started. Needs what the program needs: no part of prefillshare is imported.
"""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Run = Callable[[], object]

NAME, HERE = "common", Path(__file__).resolve().parent


class Timing:
    """What takes the place of `timed`, `row` and `lat` of the module `common`."""

    def __init__(self, common: Any, usage: Any, decode: Any) -> None:
        self._usage, self._decode = usage, decode
        self._row, self.repetitions = common.row, common.REP
        self._facts: dict[str, Any] = {}

    def timed(self, run: Run, count: int | None = None) -> list[float]:
        """Seconds of each of `count` runs, after one that warms up."""
        count = self.repetitions if count is None else count
        run()
        me, usage = os.getpid(), self._usage
        (target, *_) = usage.children(me) or [me]
        usage.reset_peak(target)
        resident, cpu = usage.resident_bytes(target), self._cpu_seconds()
        seconds = []
        for _ in range(count):
            began = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - began)
        cpu, peak = self._cpu_seconds() - cpu, usage.peak_bytes(target)
        self._facts = {"cpu_seconds": cpu, "repetitions": count}
        if target != me and resident is not None and peak is not None:
            self._facts["extra_bytes"] = max(0, peak - resident)
        return seconds

    def _cpu_seconds(self) -> float:
        usage = self._usage
        return float(sum(map(usage.cpu_seconds, usage.family(os.getpid()))))

    def row(self, name: str, seconds: list[float], size: int, **more: Any) -> None:
        """The program's line, and what the last `timed` found."""
        self._row(name, seconds, size, payload=size, **self._facts, **more)

    def lat(self, name: str, run: Run, count: int = 500) -> None:
        """Delays, alone and beside either decode loop; a line each."""
        self._delays(name, "idle", run, count)
        with self._decode.decoding():
            self._delays(name, "caller", run, count)
        with neighbour(self._decode.__file__):
            self._delays(name, "neighbour", run, count)

    def _delays(self, name: str, load: str, run: Run, count: int) -> None:
        ordered = sorted(self.timed(run, count))
        p50, p99 = ordered[count // 2], ordered[int(count * 0.99)]
        facts = {"name": name, "p50_us": p50 * 1e6, "p99_us": p99 * 1e6, "while": load}
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()


@contextmanager
def neighbour(program: str) -> Iterator[None]:
    """The decode loop in another process, running before the context begins."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, program], stdin=pipe, stdout=pipe) as child:
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdout.readline()
            yield
        finally:
            child.stdin.close()


def load(path: Path) -> Any:
    """A module by its file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(argv: Sequence[str]) -> int:
    """Run the program with the changed module."""
    program = Path(argv[0]).resolve()
    # Not the folder of this file: its modules have names that others may want.
    sys.path[0] = str(program.parent)
    common = sys.modules[NAME] = load(program.parent / f"{NAME}.py")
    usage, decode = load(HERE / "usage.py"), load(HERE / "decode.py")
    timing = Timing(common, usage, decode)
    for name in ("timed", "row", "lat"):
        setattr(common, name, getattr(timing, name))
    sys.argv = [str(program)]
    runpy.run_path(str(program), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
