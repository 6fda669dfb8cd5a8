"""Agents as processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefillshare.lifeline import LIFELINE_VARIABLE

SIZE = 1 << 20


@contextmanager
def agent_process(
    folder: Path, *more: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """An agent on the Unix socket `FOLDER/socket`, and the address it announces."""
    settings = [f"socket={folder / 'socket'}", f"arena_bytes={SIZE}", *more]
    command = [sys.executable, "-m", "prefillshare", "serve", "agent"]
    command += [word for each in settings for word in ("--set", each)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, LIFELINE_VARIABLE: "1"},
    ) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            assert ready["role"] == "agent"
            yield process, ready["url"]
        finally:
            if process.poll() is None:
                process.kill()
