"""Targets, against ratios that are known."""

from __future__ import annotations

from typing import Any

import pytest

from prefillshare.bench.transfer.found import Found
from prefillshare.bench.transfer.ratios import ratios
from prefillshare.bench.transfer.rounds import Contestant
from prefillshare.bench.transfer.settings import Part, TransferBenchSettings
from prefillshare.bench.transfer.specs import Measure
from prefillshare.bench.transfer.targets import judged


def contestant(peer: str, name: str, *found: Found) -> Contestant:
    return Contestant(peer, {"name": name}, "tcp", lambda number: [], rounds=[[*found]])


def verdicts(part: Part, target: dict[str, Any], *who: Contestant) -> list[Any]:
    settings = TransferBenchSettings.model_validate({"targets": {part: [target]}})
    return [
        (each["case"], each["other"], each["met"])
        for each in judged(settings, ratios(who))
    ]


def over(name: str, gbps: float, limit: float) -> Found:
    limits: dict[Measure, float] = {"gbps": limit}
    return Found(shape="delayed", case=name, gbps=gbps, limits=limits)


def test_each_link_is_held_to_its_own_rate() -> None:
    ours = contestant("prefillshare", "checksum", over("1", 0.95, 1), over("4", 3, 4))
    bare = contestant("socket", "bare", over("1", 0.9, 1), over("4", 3.5, 4))
    rate = {"shape": "delayed", "other": "the set rate", "ratio": 0.9}
    found = verdicts("delayed", rate, ours, bare)
    assert found == [("1", "the set rate", True), ("4", "the set rate", False)]
    beside = {"shape": "delayed", "other": "socket, *", "ratio": 1.0}
    found = verdicts("delayed", beside, ours, bare)
    assert found == [("1", "socket, bare", True), ("4", "socket, bare", False)]


def test_a_rate_that_nobody_carries_is_stated_and_not_judged() -> None:
    ours = contestant("prefillshare", "checksum", over("4", 3, 4), over("8", 5, 8))
    bare = contestant("socket", "bare", over("4", 3.9, 4), over("8", 5.5, 8))
    rate = {"shape": "delayed", "other": "the set rate", "ratio": 0.9}
    rate |= {"ours": "prefillshare, *", "carried_by": "socket, bare"}
    found = verdicts("delayed", rate, ours, bare)
    assert [(case, met) for case, _, met in found] == [("4", False), ("8", None)]


def test_an_emulator_may_be_neither_slower_nor_faster() -> None:
    links = [
        contestant("linkemu", str(rate), over("", rate, 10)) for rate in (9, 10, 12)
    ]
    target = {"shape": "delayed", "ours": "linkemu, *", "other": "the set rate"}
    found = verdicts("link", {**target, "ratio": 0.95, "at_most": 1.05}, *links)
    assert [met for _, _, met in found] == [False, True, False]


@pytest.mark.parametrize(("extra", "met"), [(0, True), (100, True), (101, False)])
def test_memory_is_to_stay_within_its_bound(extra: int, met: bool) -> None:
    found = Found(shape="memory", extra_bytes=extra, limits={"extra_bytes": 100})
    target = {"shape": "memory", "measure": "extra_bytes", "other": "the bound"}
    who = contestant("prefillshare", "checksum", found)
    ((_, _, told),) = verdicts("memory", {**target, "ratio": 1.0}, who)
    assert told is met


def test_small_blocks_are_compared_with_the_same_bytes_in_larger_ones() -> None:
    found = Found(shape="small", gbps=4), Found(shape="grouped", gbps=10)
    target = {"shape": "small", "other": "own grouped", "ratio": 0.5}
    who = contestant("prefillshare", "checksum", *found)
    assert verdicts("small", target, who) == [(None, "own grouped", False)]


def test_delays_are_compared_under_the_same_load() -> None:
    def delays(idle: float, caller: float) -> list[Found]:
        cases = (("idle", idle), ("caller", caller))
        return [Found(shape="latency", case=c, p50_us=1, p99_us=us) for c, us in cases]

    ours = contestant("prefillshare", "checksum", *delays(5, 50))
    other = contestant("mooncake", "default", *delays(10, 40))
    target = {"shape": "latency", "measure": "p99_us", "other": "mooncake, *"}
    found = verdicts("latency", {**target, "ratio": 1.0}, ours, other)
    assert [(case, met) for case, _, met in found] == [
        ("idle", True),
        ("caller", False),
    ]
    only = {**target, "case": "caller", "ratio": 1.0}
    assert len(verdicts("latency", only, ours, other)) == 1


def test_what_was_not_measured_or_is_only_stated_has_no_verdict() -> None:
    ours = contestant("prefillshare", "checksum", Found(shape="contiguous", gbps=1))
    absent = {"shape": "contiguous", "other": "nixl, *", "ratio": 1.0}
    assert verdicts("rates", absent, ours) == [(None, "nixl, *", None)]
    stated = {"shape": "contiguous", "other": "socket, bare", "ratio": None}
    bare = contestant("socket", "bare", Found(shape="contiguous", gbps=2))
    assert verdicts("rates", stated, ours, bare) == [(None, "socket, bare", None)]


def test_targets_of_shapes_that_were_not_asked_for_are_left_out() -> None:
    target = {"shape": "delayed", "other": "the set rate", "ratio": 0.9}
    settings = TransferBenchSettings.model_validate(
        {"shapes": ["contiguous"], "targets": {"delayed": [target]}}
    )
    assert judged(settings, []) == []
