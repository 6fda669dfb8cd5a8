"""Calls in lanes: order within one, none between them."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from prefillshare.errors import CapacityError, TransferBroken
from prefillshare.transfer.agent import lanes
from prefillshare.transfer.agent.lanes import Lanes
from tests.transfer.pairs import SECONDS, nothing_left_behind, until


def test_a_lane_keeps_its_order_and_waits_for_no_other() -> None:
    with nothing_left_behind():
        made, open_again, seen = Lanes(), threading.Event(), list[str]()
        made.put("a", lambda: seen.append(f"a {open_again.wait(SECONDS)}"))
        for number in range(3):
            made.put("a", partial(seen.append, f"a {number}"))
            made.put(f"b {number}", partial(seen.append, "b"))
        until(lambda: seen == ["b"] * 3)
        open_again.set()
        made.close()
        assert seen[3:] == ["a True", "a 0", "a 1", "a 2"]


def test_one_thread_stays_of_many() -> None:
    with nothing_left_behind():
        made, together = Lanes(), threading.Barrier(6, timeout=SECONDS)

        def meet() -> None:
            together.wait()

        for number in range(5):
            made.put(number, meet)
        assert len(made._threads) == 5
        together.wait()
        until(lambda: len(made._threads) == made._idle == 1)
        made.put("next", lambda: None)
        assert len(made._threads) == 1
        made.close()


def test_a_call_that_fails_is_not_the_last(caplog: pytest.LogCaptureFixture) -> None:
    made, seen = Lanes(), list[float]()
    made.put("a", lambda: seen.append(1 / 0))
    made.put("a", partial(seen.append, 1.0))
    made.close()
    assert seen == [1.0] and "division by zero" in caplog.text


def test_what_cannot_be_called_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MAX_CALLS", 2)
    made, over = Lanes(), threading.Event()

    def wait() -> None:
        over.wait(SECONDS)

    for _ in range(2):
        made.put("a", wait)
    with pytest.raises(CapacityError, match="2 calls of one worker"):
        made.put("b", over.set)
    over.set()
    made.close()

    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    with pytest.raises(TransferBroken, match="no thread"):
        Lanes().put("a", over.set)
