"""Two processes that move bytes from one to the other, measured shape by shape."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

from prefillshare.bench.transfer.engines import make_certificates
from prefillshare.bench.transfer.found import Found, percentiles
from prefillshare.bench.transfer.processes import Ask, neighbour, started, workers
from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.bench.transfer.shapes import Plan, plan
from prefillshare.bench.transfer.specs import BULK, Bare, Load, Ours
from prefillshare.transfer.linkemu.shaper import LinkSettings
from prefillshare.transfer.tcp.sockets import parse_address


@contextmanager
def ends(
    spec: Ours | Bare, size: int, timeout: float, link: LinkSettings | None = None
) -> Iterator[tuple[Ask, Ask]]:
    """Receiver and sender with `size` bytes each, connected, in fresh processes.

    With a `link`, through the emulator of it, another process. `PrefillShareError` if
    one of them fails.
    """
    with ExitStack() as stack:
        receiver, sender = stack.enter_context(workers("receiver", "sender"))
        certificates = None
        if spec.tls if isinstance(spec, Bare) else spec.encrypted:
            certificates = stack.enter_context(tempfile.TemporaryDirectory())
            make_certificates(Path(certificates))
        made = {
            "spec": spec.model_dump(),
            "size": size,
            "timeout": timeout,
            "certificates": certificates,
        }
        receiver("begin", **made)
        address, routes = receiver("address")["address"], {}
        if link is not None:
            routes[address] = stack.enter_context(emulated(link, address))
        sender("begin", routes=routes, **made)
        sender("connect", address=address)
        yield receiver, sender
        sender("close")
        receiver("close")


@contextmanager
def emulated(link: LinkSettings, address: str) -> Iterator[str]:
    """The emulator as a process; what is sent to its address comes out at another."""
    host, port = parse_address(address)
    values = link.model_dump(include=set(LinkSettings.model_fields))
    given = [f"--set={key}={json.dumps(value)}" for key, value in values.items()]
    command = ["prefillshare.transfer.linkemu", f"{host}:{port}", *given]
    with started(command) as made:
        yield made


def near(
    settings: TransferBenchSettings, spec: Ours | Bare, number: int
) -> list[Found]:
    """A contestant's shapes over loopback; `number` makes its data."""
    shapes = settings.shapes_of(spec)
    if not any(shape in (*BULK, "latency") for shape in shapes):
        return []
    with ends(spec, settings.total_bytes, settings.timeout_seconds) as (one, other):
        return measure(settings, spec, number, one, other)


def measure(
    settings: TransferBenchSettings,
    spec: Ours | Bare,
    number: int,
    receiver: Ask,
    sender: Ask,
) -> list[Found]:
    """The same between two workers that are connected."""
    shapes = settings.shapes_of(spec)
    found = [
        bulk(plan(settings, shape), 1 + number * 100 + i, receiver, sender)
        for i, shape in enumerate(BULK)
        if shape in shapes
    ]
    if "latency" in shapes:
        found += [
            delay(settings, load, settings.latency_samples, receiver, sender)
            for load in settings.loads
        ]
    return found


def bulk(which: Plan, seed: int, receiver: Ask, sender: Ask) -> Found:
    """One transfer to warm up, one by the clock, and a look at every byte of it."""
    arrange(which, seed, 2, receiver, sender)
    sender("move", count=1)
    return clocked(which, seed, receiver, sender)


def clocked(which: Plan, seed: int, receiver: Ask, sender: Ask) -> Found:
    """The last transfer that was arranged, by the clock, and a look at all of it."""
    receiver("clear")
    before = receiver("usage"), sender("usage")
    (seconds,) = sender("move", count=1)["seconds"]
    after = receiver("usage"), sender("usage")
    cpu = sum(b["cpu"] - a["cpu"] for a, b in zip(before, after, strict=True))
    resident, peak = before[0]["resident"], after[0]["peak"]
    verified = receiver("check", plan=asdict(which), seed=seed)["verified"]
    return Found(
        shape=which.shape,
        gbps=which.payload * 8 / seconds / 1e9,
        cpu_seconds_per_gb=cpu / which.payload * 1e9,
        extra_bytes=max(0, peak - resident) if resident and peak else None,
        verified=verified,
    )


def delay(
    settings: TransferBenchSettings,
    load: Load,
    samples: int,
    receiver: Ask,
    sender: Ask,
) -> Found:
    """Small writes one after the other, some to warm up and then `samples`."""
    which, seed, warm = plan(settings, "latency"), 99, min(50, samples)
    arrange(which, seed, warm + samples, receiver, sender)
    with neighbour() if load == "neighbour" else nullcontext():
        sender("move", count=warm)
        seconds = sender("move", count=samples, busy=load == "caller")["seconds"]
    verified = receiver("check", plan=asdict(which), seed=seed)["verified"]
    p50, p99 = percentiles(seconds)
    return Found(shape="latency", case=load, p50_us=p50, p99_us=p99, verified=verified)


def arrange(which: Plan, seed: int, count: int, receiver: Ask, sender: Ask) -> None:
    """Make both ready for `count` transfers of a plan with the bytes of a seed."""
    tickets = receiver("arrange", plan=asdict(which), count=count)["tickets"]
    sender("arrange", plan=asdict(which), seed=seed, tickets=tickets)
