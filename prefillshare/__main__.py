"""`python -m prefillshare` is the command line."""

from prefillshare.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
