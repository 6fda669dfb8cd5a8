"""A loop like a decoder's, to have something running while delays are taken.

As a program it says READY after its first step and runs until its input ends. It is
also run by the interpreters of peers: it needs numpy and the standard library only.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

WIDTH = 1024
LAYERS = 4
BOOKKEEPING = 2_000


class DecodeLoop:
    """Steps of matrix-vector products, which let other threads run, and plain Python,
    which does not."""

    def __init__(self) -> None:
        source = np.random.default_rng(0)
        shape = (LAYERS, WIDTH, WIDTH)
        self._weights = source.standard_normal(shape, dtype=np.float32) / WIDTH
        self._state = np.ones(WIDTH, np.float32)
        self._ended = threading.Event()
        self.steps = 0

    def step(self) -> None:
        """One token."""
        for weights in self._weights:
            self._state = np.tanh(weights @ self._state) + 1
        seen: dict[int, int] = {}
        for i in range(BOOKKEEPING):
            seen[i % 97] = seen.get(i % 97, 0) + i
        self.steps += 1

    def run(self) -> None:
        """Steps until `end`."""
        while not self._ended.is_set():
            self.step()

    def end(self) -> None:
        """Stop after the step under way."""
        self._ended.set()


@contextmanager
def decoding() -> Iterator[DecodeLoop]:
    """The loop in a thread of this process, for as long as the context lasts."""
    loop = DecodeLoop()
    loop.step()
    thread = threading.Thread(target=loop.run, name="decode loop")
    thread.start()
    try:
        yield loop
    finally:
        loop.end()
        thread.join()


def main() -> int:
    """Run until the input ends."""
    with decoding():
        sys.stdout.write("READY\n")
        sys.stdout.flush()
        sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
