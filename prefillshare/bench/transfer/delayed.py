"""Transfers over a slow and long link, and the emulator of it held to its settings."""

from __future__ import annotations

from math import sqrt

from prefillshare.bench.transfer.found import Found
from prefillshare.bench.transfer.pair import arrange, clocked, delay, ends
from prefillshare.bench.transfer.processes import Ask
from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.bench.transfer.shapes import piece
from prefillshare.bench.transfer.specs import Bare, CheckedLink, Measure, Ours, Shape
from prefillshare.transfer.linkemu.shaper import LinkSettings

# Of the bytes of a transfer, what goes before it to bring the connections up.
_WARM_UP = 16


def delayed(
    settings: TransferBenchSettings, spec: Ours | Bare, number: int
) -> list[Found]:
    """One piece over a link of every rate, with the round trip of the settings."""
    trip = settings.delayed.round_trip
    links = (LinkSettings(rate=r, delay=trip / 2) for r in settings.delayed.rates)
    return [_over(settings, spec, each, number) for each in links]


def _over(
    settings: TransferBenchSettings,
    spec: Ours | Bare,
    link: LinkSettings,
    number: int,
) -> Found:
    assert link.rate is not None
    size = bytes_over(settings, link.rate)
    with ends(spec, size, settings.timeout_seconds, link) as (receiver, sender):
        found = _carried("delayed", size, number, receiver, sender)
    gbps = link.rate / 1e9
    limits: dict[Measure, float] = {"gbps": gbps}
    told = {"case": f"{gbps:g} Gbit/s", "limits": limits}
    return found.model_copy(update=told)


def _carried(shape: Shape, size: int, number: int, receiver: Ask, sender: Ask) -> Found:
    """One piece, after a small one that brings the connections up."""
    seed = 1 + number * 100
    for which in (piece(shape, size // _WARM_UP), piece(shape, size)):
        arrange(which, seed, 1, receiver, sender)
        found = clocked(which, seed, receiver, sender)
    return found


def bytes_over(settings: TransferBenchSettings, rate: float) -> int:
    """How many go over a link of so many bits a second, in whole pages."""
    most = int(rate / 8 * settings.delayed.seconds)
    return max(_WARM_UP * 4096, min(most, settings.total_bytes) // 4096 * 4096)


def check_link(
    settings: TransferBenchSettings, link: CheckedLink, number: int
) -> list[Found]:
    """What a bare socket finds on a link, and what it should find.

    Each round has a link with jitter of its own.
    """
    link = link.model_copy(update={"seed": link.seed + number})
    size = settings.total_bytes
    if link.rate is not None:
        size = bytes_over(settings, link.rate)
    bare = Bare(name=link.name)
    with ends(bare, size, settings.timeout_seconds, link) as (one, other):
        if link.rate is not None:
            found = _carried("link", size, number, one, other)
        else:
            trip = 2 * link.delay + link.jitter
            samples = max(10, int(settings.link_seconds / trip)) if trip else 1000
            found = delay(settings, "idle", samples, one, other)
    told = {"shape": "link", "case": None, "limits": expected(link)}
    return [found.model_copy(update=told)]


def expected(link: LinkSettings) -> dict[Measure, float]:
    """What the settings of a link come to, in the units of `Found`.

    A round trip has the jitter of both ways: its sum has a triangle for a density,
    with the median in the middle.
    """
    if link.rate is not None:
        every = link.stall_every
        share = 1.0 if every is None else every / (every + link.stall)
        return {"gbps": link.rate / 1e9 * share}
    late = 2 - sqrt(2 * 0.01)
    return {
        "p50_us": (2 * link.delay + link.jitter) * 1e6,
        "p99_us": (2 * link.delay + late * link.jitter) * 1e6,
    }
