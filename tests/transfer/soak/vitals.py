"""What a process holds: what a soak must not see grow."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


def vitals() -> dict[str, int]:
    """Threads, open descriptors, shared mappings, and resident bytes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    # Those that take orders are the soak's own, and come as they are needed.
    threads = [t for t in threading.enumerate() if not t.name.startswith("order")]
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    maps = Path("/proc/self/maps").read_text().splitlines()
    return {
        "threads": len(threads),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "shared": sum("memfd" in line or "/dev/shm" in line for line in maps),
        "resident": resident,
    }
