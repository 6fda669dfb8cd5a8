"""Processor time and memory of a process, those that it started included.

This file is also run by the interpreters of peers: it needs the standard library only.
"""

from __future__ import annotations

import os
from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, in seconds; 0 if it is gone.

    The kernel counts in ticks, of 10 ms usually.
    """
    return _ticks(pid) / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and all of its living descendants."""
    found, wanted = [], [pid]
    while wanted:
        found.append(wanted.pop())
        wanted += children(found[-1])
    return found


def children(pid: int) -> list[int]:
    """The processes that a process started and that live."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        listed = [(each / "children").read_text(encoding="ascii") for each in tasks]
    except OSError:
        return []
    return [int(number) for line in listed for number in line.split()]


def reset_peak(pid: int) -> None:
    """Begin the peak of a process's resident memory anew, from what it has now."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def resident_bytes(pid: int) -> int | None:
    """What a process has in memory now."""
    return _status(pid, "VmRSS:")


def peak_bytes(pid: int) -> int | None:
    """The most that it had in memory since `reset_peak`; None if nobody may know."""
    return _status(pid, "VmHWM:")


def own_memory() -> tuple[int, int, int]:
    """Resident bytes of this process: all, private ones, and shared ones."""
    pid = os.getpid()
    keys = "VmRSS:", "RssAnon:", "RssShmem:"
    resident, private, shared = (_status(pid, key) or 0 for key in keys)
    return resident, private, shared


def private_growth(before: tuple[int, int, int]) -> int:
    """Private bytes that this process has now, or had at most, beyond `own_memory`.

    `reset_peak` is to be called right after that. What was shared at the peak is taken
    to be what is shared now, so nothing may be unmapped in between.
    """
    _, private, shared = own_memory()
    most = (peak_bytes(os.getpid()) or 0) - before[0] - (shared - before[2])
    return max(0, private - before[1], most)


def _ticks(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return 0
    # The name, in brackets, may hold anything; utime and stime are fields 14 and 15.
    fields = text.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _status(pid: int, key: str) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return None
