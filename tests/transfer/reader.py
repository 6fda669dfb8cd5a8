"""A process that maps a grant, says so, and then does what it is told.

Usage: python -m tests.transfer.reader GRANT_AS_JSON
"""

from __future__ import annotations

import json
import sys
import time

from prefillshare.transfer.base import Grant
from prefillshare.transfer.shm import ShmEngine


def main() -> None:
    """Print the sum of the bytes, then obey one word: write, release, or nothing."""
    grant = Grant.from_dict(json.loads(sys.argv[1]))
    engine = ShmEngine()
    mapping = engine.connect(grant.address).map(grant, note=b"from afar")
    sys.stdout.write(f"{sum(sum(view) for view in mapping.views)}\n")
    sys.stdout.flush()
    word = sys.stdin.readline().strip()
    if word == "write":
        write(mapping.views[0])
    if word == "release":
        mapping.release()
        engine.close()
        return
    # Until it is killed, or its test is given up.
    time.sleep(120)


def write(view: memoryview) -> None:
    """Write in spite of the view, as C code with the address could."""
    import ctypes

    import numpy as np

    address = np.frombuffer(view, np.uint8).ctypes.data
    ctypes.memset(address, 0, 1)


if __name__ == "__main__":
    main()
