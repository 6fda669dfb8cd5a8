"""Compare decoders on held-out cases.

python train/evaluate.py --config configs/eval/casefile.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from prefillshare.cli import main as prefillshare_main


def main(argv: Sequence[str] | None = None) -> int:
    """Run the evaluation; returns its exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    return prefillshare_main(["eval", *arguments])


if __name__ == "__main__":
    raise SystemExit(main())
