"""Tune a prefill module to be read, then freeze it.

accelerate launch train/prefill.py --config configs/train/prefill.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from prefillshare.cli import main as prefillshare_main


def main(argv: Sequence[str] | None = None) -> int:
    """Run the training command in this process; returns its exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    return prefillshare_main(["train", "prefill", "--in-process", *arguments])


if __name__ == "__main__":
    raise SystemExit(main())
