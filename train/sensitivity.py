"""Find the layers that a tuned decoder must compute anew on the base's cache.

python train/sensitivity.py --config configs/eval/sensitivity.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from prefillshare.cli import main as prefillshare_main


def main(argv: Sequence[str] | None = None) -> int:
    """Run the profiling; returns its exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    return prefillshare_main(["eval", "sensitivity", *arguments])


if __name__ == "__main__":
    raise SystemExit(main())
