"""Fine-tune decoders.

accelerate launch train/decoder.py --config configs/train/shipping.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from prefillshare.cli import main as prefillshare_main


def main(argv: Sequence[str] | None = None) -> int:
    """Run the training command in this process; returns its exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    return prefillshare_main(["train", "--in-process", *arguments])


if __name__ == "__main__":
    raise SystemExit(main())
