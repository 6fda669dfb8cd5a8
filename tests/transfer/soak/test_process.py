"""Orders to a process that has ended."""

import sys
import threading
from pathlib import Path

import pytest

from tests.transfer.pairs import until
from tests.transfer.soak.process import Killed, Process

# Its output is closed and its input is not, as of one that is dying.
DYING = "import os, time; os.close(1); time.sleep(600)"


def test_an_order_to_a_process_that_is_dying_is_not_waited_for(tmp_path: Path) -> None:
    process = Process("dying", tmp_path / "log", [sys.executable, "-c", DYING])
    try:
        until(lambda: "dying" not in {each.name for each in threading.enumerate()})

        with pytest.raises(Killed):
            process.ask("anything")
    finally:
        process.kill()
        process.close()
