"""Who runs when, and rows and ratios out of known figures."""

from __future__ import annotations

import pytest

from prefillshare.bench.transfer.found import Found, percentiles
from prefillshare.bench.transfer.ratios import ratios
from prefillshare.bench.transfer.rounds import Contestant, rows, turns


def contestant(peer: str, name: str, *rounds: list[Found]) -> Contestant:
    return Contestant(peer, {"name": name}, "tcp", lambda number: [], rounds=[*rounds])


def rates(gbps: float, cpu: float = 1.0, scattered: float = 1.0) -> list[Found]:
    return [
        Found(shape="contiguous", gbps=gbps, cpu_seconds_per_gb=cpu, verified=True),
        Found(shape="scattered", gbps=scattered, verified=True),
        Found(shape="latency", case="idle", p50_us=gbps, p99_us=2 * gbps),
    ]


def test_the_order_turns_round_with_every_round() -> None:
    three = [contestant(name, "x") for name in "abc"]
    for each, times in zip(three, (3, 1, 3), strict=True):
        each.times = times
    assert [each.peer for each in turns(three)] == list("abccaac")


def test_rows_are_medians_and_spreads_over_the_rounds() -> None:
    ours = contestant("prefillshare", "x", rates(4), rates(8, cpu=3), rates(5))
    piece, blocks, delay = rows([ours])
    assert piece["gbps"] == {"min": 4, "median": 5, "max": 8}
    assert piece["cpu_seconds_per_gb"] == 1
    assert piece["spread"] == {"cpu_seconds_per_gb": [1, 3]}
    assert piece["verified"] is True and piece["rounds"] == 3
    assert (piece["peer"], piece["transport"]) == ("prefillshare", "tcp")
    assert (piece["shape"], piece["settings"]) == ("contiguous", {"name": "x"})
    assert delay["case"] == "idle" and delay["verified"] is None
    assert (delay["p50_us"], delay["p99_us"]) == (5, 10)
    assert delay["spread"]["p99_us"] == [8, 16] and "gbps" not in delay


def test_ratios_are_of_one_round_each_and_above_one_in_our_favour() -> None:
    ours = contestant("prefillshare", "x", rates(4, scattered=2), rates(9, cpu=2))
    other = contestant("mooncake", "y", rates(2, cpu=3), rates(3))
    found = {
        (each["other"], each["shape"], each["measure"]): each["by_round"]
        for each in ratios([ours, other])
    }
    assert found["mooncake, y", "contiguous", "gbps"] == [2, 3]
    assert found["mooncake, y", "contiguous", "cpu_seconds_per_gb"] == [3, 0.5]
    assert found["mooncake, y", "latency", "p99_us"] == [0.5, pytest.approx(1 / 3)]
    assert found["own contiguous", "scattered", "gbps"] == [0.5, pytest.approx(1 / 9)]


def test_peers_that_did_not_run_or_read_are_in_no_ratio() -> None:
    ours = contestant("prefillshare", "x", rates(4))
    reading = [Found(shape="contiguous", direction="read", gbps=1)]
    absent = contestant("nixl", "z")
    absent.not_run = "no interpreter was named"
    found = ratios([ours, contestant("mooncake", "y", reading), absent])
    assert {each["other"] for each in found} == {"own contiguous"}
    (row,) = rows([absent])
    assert row["not_run"] == "no interpreter was named" and row["shape"] is None


def test_percentiles_are_in_microseconds() -> None:
    assert percentiles([i / 1e6 for i in range(100, 0, -1)]) == pytest.approx((51, 100))
    assert percentiles([1.0]) == (1e6, 1e6)
