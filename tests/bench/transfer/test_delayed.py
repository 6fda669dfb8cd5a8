"""Links through the emulator, and what it is held to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from prefillshare.bench.transfer import delayed as delayed_module
from prefillshare.bench.transfer.delayed import (
    bytes_over,
    check_link,
    delayed,
    expected,
)
from prefillshare.bench.transfer.pair import ends
from prefillshare.bench.transfer.processes import Ask
from prefillshare.bench.transfer.settings import DelayedSettings, TransferBenchSettings
from prefillshare.bench.transfer.specs import Bare, CheckedLink, Ours
from prefillshare.transfer.linkemu.shaper import LinkSettings

SLOW = TransferBenchSettings(
    total_bytes=1 << 20,
    small_blocks=16,
    delayed=DelayedSettings(rates=[5e7, 1e8], round_trip=0.02, seconds=0.05),
    link_seconds=0.2,
    timeout_seconds=60,
)


@pytest.mark.parametrize(
    "spec",
    [
        Ours(name="checksum"),
        Ours(name="encrypted agent", encrypted=True, agent=True),
        Bare(name="bare", streams=2),
    ],
    ids=lambda spec: spec.name,
)
def test_no_rate_is_above_that_of_the_link(spec: Ours | Bare) -> None:
    """Loopback is faster by far: what went around the emulator would be, too."""
    first, second = delayed(SLOW, spec, 0)
    assert (first.case, second.case) == ("0.05 Gbit/s", "0.1 Gbit/s")
    for found, gbps in ((first, 0.05), (second, 0.1)):
        assert found.verified and found.limits == {"gbps": gbps}
        assert found.gbps is not None and 0 < found.gbps < gbps


def test_as_much_goes_over_a_link_as_it_carries_in_the_time() -> None:
    assert bytes_over(SLOW, 1e8) == 625_000 // 4096 * 4096
    assert bytes_over(SLOW, 1e12) == SLOW.total_bytes
    assert bytes_over(SLOW, 1.0) == 16 * 4096


def test_an_emulated_link_is_looked_at_from_outside() -> None:
    (rate,) = check_link(SLOW, CheckedLink(name="x", rate=1e8), 0)
    assert rate.verified and rate.shape == "link"
    assert rate.gbps is not None and 0 < rate.gbps < 0.1
    (trip,) = check_link(SLOW, CheckedLink(name="x", delay=0.005, jitter=0.002), 0)
    assert trip.p50_us is not None and trip.p99_us is not None
    assert 10_000 <= trip.p50_us <= trip.p99_us
    assert trip.limits["p50_us"] == pytest.approx(12_000)


def test_every_round_has_jitter_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    @contextmanager
    def watched(*arguments: Any) -> Iterator[tuple[Ask, Ask]]:
        seeds.append(arguments[-1].seed)
        with ends(*arguments) as both:
            yield both

    monkeypatch.setattr(delayed_module, "ends", watched)
    for number in (0, 1):
        check_link(SLOW, CheckedLink(name="x", delay=0.001, seed=5), number)
    assert seeds == [5, 6]


def test_what_settings_come_to() -> None:
    assert expected(LinkSettings(rate=2e9)) == {"gbps": 2.0}
    stalling = LinkSettings(rate=2e9, stall_every=0.1, stall=0.3)
    assert expected(stalling) == {"gbps": pytest.approx(0.5)}
    # One in a hundred sums of two even draws lies above 2 - sqrt(0.02).
    late = expected(LinkSettings(delay=0.04, jitter=0.01))
    assert late == {"p50_us": pytest.approx(90e3), "p99_us": pytest.approx(98_585.79)}
