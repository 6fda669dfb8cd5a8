"""One target under libFuzzer, which keeps what reaches new code.

Usage: python -m tests.transfer.fuzz.guided TARGET [LIBFUZZER_FLAG…] FOLDER…
"""

from __future__ import annotations

import sys

import atheris


def main() -> None:
    """Fuzz until the flags say that it is enough; a finding ends it with an error."""
    with atheris.instrument_imports(include=["prefillshare.transfer"]):
        from tests.transfer.fuzz.targets import TARGETS
    _, name, *flags = sys.argv
    # libFuzzer starts itself again by it, through a shell, to merge inputs.
    command = f"{sys.executable} -m {__spec__.name} {name}"
    atheris.Setup([command, *flags], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
