"""What the agents of both ends have resident while many bytes go through them."""

from __future__ import annotations

from dataclasses import asdict

from prefillshare.bench.transfer.engines import tcp_settings
from prefillshare.bench.transfer.found import Found
from prefillshare.bench.transfer.pair import arrange, bulk, ends
from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.bench.transfer.shapes import piece
from prefillshare.bench.transfer.specs import Measure, Ours
from prefillshare.transfer.agent.space import whole_pages
from prefillshare.transfer.secure.sealing import TAG_BYTES

_FEW = 1 << 16


def agents_memory(
    settings: TransferBenchSettings, spec: Ours, number: int
) -> list[Found]:
    """Its arena moves again and again; the most that each agent had beyond its start.

    It has started once it has moved a few bytes. The bound is the arena and, for every
    stream, one slice with its tag, in whole pages.
    """
    size = settings.memory.arena_bytes
    which, seed = piece("memory", size), 1 + number * 100
    count = -(-settings.memory.total_bytes // size)
    with ends(spec, size, settings.timeout_seconds) as both:
        receiver, sender = both
        bulk(piece("memory", min(_FEW, size)), seed, receiver, sender)
        before = [each("usage")["helpers_resident"] for each in both]
        arrange(which, seed, count, *both)
        for each in both:
            each("forget_peaks")
        seconds = sender("move", count=count)["seconds"]
        peaks = [each("usage")["helpers_peak"] for each in both]
        verified = receiver("check", plan=asdict(which), seed=seed)["verified"]
    tcp = tcp_settings(spec)
    step = tcp.slices_of(size, 1, sealed=tcp.sealed == "always")
    staging = tcp.streams * whole_pages(step + TAG_BYTES)
    limits: dict[Measure, float] = {"extra_bytes": size + staging}
    return [
        Found(
            shape="memory",
            case=case,
            gbps=count * size * 8 / sum(seconds) / 1e9,
            extra_bytes=max(0, peak - resident),
            verified=verified,
            limits=limits,
        )
        for case, resident, peak in zip(
            ("receiving agent", "sending agent"), before, peaks, strict=True
        )
    ]
