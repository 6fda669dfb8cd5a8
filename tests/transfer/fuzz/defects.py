"""What no input may bring about: a thread that dies, or a defect that is logged."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Tracebacks(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.found.append(logging.Formatter().format(record))


@contextmanager
def no_defect() -> Iterator[None]:
    """Fail if a thread dies, or the package logs a traceback, within the block."""
    handler, logger = _Tracebacks(), logging.getLogger("prefillshare")
    previous, hook = logger.propagate, threading.excepthook
    logger.addHandler(handler)
    # What else it says of bad peers is not worth a line for each input.
    logger.propagate = False
    threading.excepthook = lambda died: handler.found.append(repr(died))
    try:
        yield
    finally:
        threading.excepthook = hook
        logger.removeHandler(handler)
        logger.propagate = previous
    assert handler.found == []
