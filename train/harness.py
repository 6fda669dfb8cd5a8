"""Evaluate a decoder with lm-evaluation-harness.

python train/harness.py --model prefillshare \\
    --model_args model=models/base,decoder=runs/shipping --tasks gsm8k
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from prefillshare.errors import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the harness's own command line; returns its exit status, 2 without it."""
    try:
        from prefillshare.evals.lm_eval import main as harness_main
    except ConfigError as error:
        sys.stderr.write(f"harness: error: {error}\n")
        return 2
    return harness_main(argv)


if __name__ == "__main__":
    raise SystemExit(main())
