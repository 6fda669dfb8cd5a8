"""Serve a configuration.

python serve/daemon.py all --config configs/serve/two-agents.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from prefillshare.cli import main as prefillshare_main


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon until it is stopped; returns its exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    return prefillshare_main(["serve", *arguments])


if __name__ == "__main__":
    raise SystemExit(main())
