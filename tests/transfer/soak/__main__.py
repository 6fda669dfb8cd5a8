"""`python -m tests.transfer.soak`: a soak as long as wanted, see `run`."""

from __future__ import annotations

import argparse
import sys
import time

from tests.transfer.soak.run import MODES, soak


def main() -> int:
    """Soak and print; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.transfer.soak")
    parser.add_argument("--transfers", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mode", choices=MODES, action="append")
    given = parser.parse_args()
    start = time.monotonic()
    findings = soak(given.transfers, given.seed, _say, tuple(given.mode or MODES))
    for line in findings.lines():
        _say(line)
    _say(f"{(time.monotonic() - start) / 60:.1f} minutes, seed {given.seed}")
    return 1 if findings.wrong else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
