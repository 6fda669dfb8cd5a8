"""Fuzzes the transfer engine, guided by coverage, from the inputs in `corpus`.

    python -m tests.transfer.fuzz --seconds 60                # every target
    python -m tests.transfer.fuzz session --seconds 600 --keep

Needs `pip install -e '.[fuzz]'`. A finding is printed, its input kept in the folder
that is named, and the exit status is 1. With --keep, the inputs in `corpus` become the
seeds and the fewest and shortest others that reach what was reached.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.transfer.fuzz.seeds import seeds
from tests.transfer.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
ROOT = Path(__file__).parents[3]
# Inputs stay small enough for a repository, and one that hangs is a finding.
LIMITS = ["-max_len=2048", "-timeout=30", "-rss_limit_mb=1500"]


def main() -> int:
    """Fuzz what is asked for; 1 if there was a finding."""
    parser = argparse.ArgumentParser(prog="python -m tests.transfer.fuzz")
    # nargs="*" with choices refuses the empty list.
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="replace the corpus")
    given = parser.parse_args()
    if unknown := set(given.targets) - set(TARGETS):
        parser.error(f"no targets: {', '.join(sorted(unknown))}")
    found = [
        name
        for name in given.targets or TARGETS
        if not _fuzz(name, given.seconds, given.seed, given.keep)
    ]
    sys.stdout.write(f"findings: {', '.join(found) or 'none'}\n")
    return 1 if found else 0


def _fuzz(name: str, seconds: int, seed: int, keep: bool) -> bool:
    sys.stdout.write(f"== {name}\n")
    sys.stdout.flush()
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    made = folder / "made"
    made.mkdir()
    flags = [f"-max_total_time={seconds}", f"-seed={seed}", "-print_final_stats=1"]
    flags += [f"-artifact_prefix={folder}/", *LIMITS, str(made), str(CORPUS / name)]
    if _run(name, flags):
        sys.stdout.write(f"{name}: what was found is in {folder}\n")
        return False
    if keep:
        _merge(name, folder, made)
    shutil.rmtree(folder)
    return True


def _merge(name: str, folder: Path, made: Path) -> None:
    """Seeds stay, under their names; others have a digest for one."""
    fewest, corpus = folder / "fewest", CORPUS / name
    fewest.mkdir()
    for seed, data in seeds()[name].items():
        (fewest / seed).write_bytes(data)
    if _run(name, ["-merge=1", *LIMITS, str(fewest), str(corpus), str(made)]):
        raise SystemExit(f"{name}: the inputs cannot be merged")
    shutil.rmtree(corpus)
    corpus.mkdir()
    for path in fewest.iterdir():
        short = path.name if path.name in seeds()[name] else path.name[:12]
        (corpus / short).write_bytes(path.read_bytes())


def _run(name: str, flags: list[str]) -> int:
    command = [sys.executable, "-m", "tests.transfer.fuzz.guided", name, *flags]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
