"""How a started process says that it is ready, and learns that it shall end."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Set by a launcher whose processes shall not outlive it.
LIFELINE_VARIABLE = "PREFILLSHARE_LIFELINE"


def announce(role: str, url: str) -> None:
    """Say where a role answers, as one line of JSON on stdout."""
    sys.stdout.write(json.dumps({"role": role, "url": url}) + "\n")
    sys.stdout.flush()


def follow_launcher(stop: Callable[[], object]) -> None:
    """With PREFILLSHARE_LIFELINE set, call `stop` once stdin ends.

    The launcher holds the other end, so it ends with the launcher, `kill -9` included.
    """
    if os.environ.get(LIFELINE_VARIABLE):
        threading.Thread(target=_follow, args=(stop,), daemon=True).start()


@contextmanager
def stop_event() -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM and the launcher's end set; main thread only."""
    stopped = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {n: signal.signal(n, lambda *_: stopped.set()) for n in numbers}
    follow_launcher(stopped.set)
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _follow(stop: Callable[[], object]) -> None:
    # Not through sys.stdin, whose lock a thread must not hold when Python ends.
    while os.read(0, 4096):
        pass
    stop()
