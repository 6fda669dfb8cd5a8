"""What is called when, and what is kept of calls that were cancelled: little."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import pytest

from prefillshare.transfer.tcp.engine import TcpEngine
from prefillshare.transfer.timer import Timer
from tests.transfer.pairs import SECONDS, nothing_left_behind


@pytest.fixture
def timer() -> Iterator[Timer]:
    with nothing_left_behind():
        made = Timer()
        made.start()
        yield made
        made.close()


def test_calls_that_were_cancelled_do_not_collect(timer: Timer) -> None:
    kept = [timer.after(600.0, lambda: None) for _ in range(100)]
    for _ in range(10_000):
        timer.after(600.0, lambda: None).cancel()
    assert timer.waiting <= 2 * len(kept) + 64
    assert all(due.call is not None for due in kept)


def test_an_engine_has_the_thread_for_its_calls_from_the_beginning() -> None:
    # Later there may be none, and what counts on a call would wait for ever.
    with nothing_left_behind():
        engine = TcpEngine()
        names = [thread.name for thread in threading.enumerate()]
        engine.close()
    assert "kv-timer" in names


def test_what_was_not_cancelled_is_called_in_its_order(timer: Timer) -> None:
    said: list[int] = []
    over = threading.Event()
    due: dict[int, float] = {}
    for number in range(200):
        # The later the number, the earlier it is due.
        made = timer.after(0.2 - number / 1000, partial(said.append, number))
        if number % 4:
            made.cancel()
        else:
            due[number] = made.when
    timer.after(0.3, over.set)
    assert over.wait(SECONDS)
    assert said == sorted(due, key=lambda number: due[number])
