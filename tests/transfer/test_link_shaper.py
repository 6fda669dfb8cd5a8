"""When bytes come out of an emulated link: against its settings, without a clock."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefillshare.transfer.linkemu.shaper import UNDER_WAY_BYTES, LinkSettings, Shaper

# Gaps before chunks, and their sizes in bytes.
TRAFFIC = st.lists(
    st.tuples(st.floats(0.0, 3.0), st.integers(0, 5_000)), min_size=1, max_size=30
)


def outs(
    traffic: list[tuple[float, int]], **settings: Any
) -> list[tuple[float, float]]:
    """When each chunk entered and came out."""
    shaper, now, times = Shaper(LinkSettings(**settings), start=7.0), 7.0, []
    for gap, size in traffic:
        now += gap
        times.append((now, shaper.carry(now, size)))
    return times


def test_a_link_without_settings_is_none() -> None:
    assert all(entered == left for entered, left in outs([(1.0, 10**9), (0.0, 5)]))


def test_what_enters_together_comes_out_at_the_rate_behind_the_delay() -> None:
    times = outs([(0.0, 1000)] * 5, rate=8000.0, delay=0.25)
    assert [left for _, left in times] == pytest.approx(
        [7 + 0.25 + n for n in (1, 2, 3, 4, 5)]
    )


def test_an_idle_line_does_not_save_up() -> None:
    times = outs([(0.0, 1000), (10.0, 1000)], rate=8000.0)
    assert times[1][1] == pytest.approx(17.0 + 1.0)


def test_a_stalled_line_carries_nothing() -> None:
    """2 s of service, 3 s of none: of 5 s of work, two stalls come between."""
    ((_, left),) = outs([(0.0, 5000)], rate=8000.0, stall_every=2.0, stall=3.0)
    assert left == pytest.approx(7 + 5 + 2 * 3)
    # Two seconds of work end before the stall; an entry within it waits for its end.
    ((_, left),) = outs([(0.0, 2000)], rate=8000.0, stall_every=2.0, stall=3.0)
    assert left == pytest.approx(7 + 2)
    ((_, left),) = outs([(2.5, 0)], rate=8000.0, stall_every=2.0, stall=3.0)
    assert left == pytest.approx(7 + 5)


@given(TRAFFIC, st.floats(0.0, 2.0), st.floats(0.0, 2.0))
def test_nothing_overtakes_and_each_is_under_way_as_long_as_set(
    traffic: list[tuple[float, int]], delay: float, jitter: float
) -> None:
    times = outs(traffic, delay=delay, jitter=jitter)
    for (_, first), (_, second) in pairwise(times):
        assert first <= second
    for entered, left in times:
        assert delay - 1e-9 <= left - entered
        # Longer only behind another, which was no longer under way itself.
        assert left - entered <= delay + jitter + 1e-9


@given(TRAFFIC, st.floats(0.1, 3.0), st.floats(0.1, 3.0))
def test_a_line_with_stalls_serves_as_one_that_is_watched_all_the_time(
    traffic: list[tuple[float, int]], every: float, stall: float
) -> None:
    found = outs(traffic, rate=8000.0, stall_every=every, stall=stall)
    free = 0.0
    for (_, size), (entered, left) in zip(traffic, found, strict=True):
        at, todo = max(entered - 7.0, free), size / 1000
        for lap in range(10_000):
            opens, closes = lap * (every + stall), lap * (every + stall) + every
            at = max(at, opens)
            if at > closes + 1e-9:
                continue
            done = min(todo, max(0.0, closes - at))
            at, todo = at + done, todo - done
            if todo <= 1e-9:
                break
        free = at
        # At a lap's very end, rounding decides whether the stall still comes first.
        assert left - 7.0 == pytest.approx(at, abs=1e-6) or left - 7.0 == pytest.approx(
            at + stall, abs=1e-6
        )


def test_stalls_are_set_whole() -> None:
    for half in ({"stall": 1.0}, {"stall_every": 1.0}):
        with pytest.raises(ValueError, match="go together; set both or neither"):
            LinkSettings(**half)


def test_a_link_holds_what_is_under_way_and_its_queue() -> None:
    settings = LinkSettings(rate=8e6, delay=0.04, jitter=0.01, queue_bytes=500)
    assert settings.capacity == pytest.approx(500 + 1e6 * 0.05)
    assert LinkSettings(queue_bytes=500).capacity == 500
    # At no set rate, too, it is not for ever more.
    for long in ({"delay": 0.04}, {"jitter": 0.01}):
        assert LinkSettings(queue_bytes=500, **long).capacity == 500 + UNDER_WAY_BYTES


def test_each_way_has_jitter_of_its_own_and_the_same_every_time() -> None:
    settings = LinkSettings(jitter=1.0)

    def drawn(way: int) -> list[float]:
        shaper = Shaper(settings, way=way)
        # Far enough apart that nothing waits for what was before it.
        return [shaper.carry(2.0 * n, 1) - 2.0 * n for n in range(50)]

    assert drawn(0) == drawn(0)
    assert not set(drawn(0)) & set(drawn(1))
