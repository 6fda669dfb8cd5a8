"""Two processes that move bytes from one to the other, measured shape by shape."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Protocol

from prefillshare.bench.transfer import decode
from prefillshare.bench.transfer.engines import make_certificates
from prefillshare.bench.transfer.found import Found, percentiles
from prefillshare.bench.transfer.settings import (
    Bare,
    Load,
    Ours,
    TransferBenchSettings,
)
from prefillshare.bench.transfer.shapes import Plan, plan
from prefillshare.errors import PrefillShareError

Facts = dict[str, Any]


class Ask(Protocol):
    """Gives an order to one of the two, and returns what it found."""

    def __call__(self, order: str, **arguments: Any) -> Facts: ...


class Child:
    """A worker process; `PrefillShareError` if it ends or an order fails."""

    def __init__(self, role: str, errors: IO[str]) -> None:
        command = [sys.executable, "-m", "prefillshare.bench.transfer.worker", role]
        self._role, self._errors = role, errors
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment(),
        )

    def __call__(self, order: str, **arguments: Any) -> Facts:
        asked, answers = self._process.stdin, self._process.stdout
        assert asked is not None and answers is not None
        try:
            asked.write(json.dumps([order, arguments]) + "\n")
            asked.flush()
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        found: Facts = json.loads(line) if line else {"error": self._last_words()}
        if "error" in found:
            raise PrefillShareError(
                f"the {self._role} could not {order}: {found['error']}"
            )
        return found

    def _last_words(self) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        return f"it ended with status {status}:\n{self._errors.read()[-2000:]}"

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait()


def environment() -> dict[str, str]:
    """Of a child: threads for linear algebra would only take the other's core."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def run_pair(
    settings: TransferBenchSettings, spec: Ours | Bare, number: int
) -> list[Found]:
    """One round of a contestant in two fresh processes; `number` makes its data.

    Raises `PrefillShareError` if one of them fails.
    """
    with ExitStack() as stack:
        ends = []
        for role in ("receiver", "sender"):
            log = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
            child = Child(role, log)
            stack.callback(child.close)
            ends.append(child)
        certificates = None
        if isinstance(spec, Ours) and spec.encrypted:
            certificates = stack.enter_context(tempfile.TemporaryDirectory())
            make_certificates(Path(certificates))
        receiver, sender = ends
        return measure(settings, spec, number, receiver, sender, certificates)


def measure(
    settings: TransferBenchSettings,
    spec: Ours | Bare,
    number: int,
    receiver: Ask,
    sender: Ask,
    certificates: str | None = None,
) -> list[Found]:
    """All shapes between two workers that have no order yet."""
    made = {
        "spec": spec.model_dump(),
        "size": settings.total_bytes,
        "timeout": settings.timeout_seconds,
        "certificates": certificates,
    }
    receiver("begin", **made)
    sender("begin", **made)
    sender("connect", **receiver("address"))
    found = []
    for i, shape in enumerate(settings.shapes):
        seed = 1 + number * 100 + i
        found.append(_bulk(plan(settings, shape), seed, receiver, sender))
    if settings.latency_samples:
        found += [_delay(settings, load, receiver, sender) for load in settings.loads]
    sender("close")
    receiver("close")
    return found


def _bulk(which: Plan, seed: int, receiver: Ask, sender: Ask) -> Found:
    """One transfer to warm up, one by the clock, and a look at every byte of it."""
    _arrange(which, seed, 2, receiver, sender)
    sender("move", count=1)
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
        receiver_extra_bytes=max(0, peak - resident) if resident and peak else None,
        verified=verified,
    )


def _delay(
    settings: TransferBenchSettings, load: Load, receiver: Ask, sender: Ask
) -> Found:
    which, seed = plan(settings, "latency"), 99
    warm, samples = min(50, settings.latency_samples), settings.latency_samples
    _arrange(which, seed, warm + samples, receiver, sender)
    with neighbour() if load == "neighbour" else nullcontext():
        sender("move", count=warm)
        seconds = sender("move", count=samples, busy=load == "caller")["seconds"]
    verified = receiver("check", plan=asdict(which), seed=seed)["verified"]
    p50, p99 = percentiles(seconds)
    return Found(shape="latency", load=load, p50_us=p50, p99_us=p99, verified=verified)


def _arrange(which: Plan, seed: int, count: int, receiver: Ask, sender: Ask) -> None:
    tickets = receiver("arrange", plan=asdict(which), count=count)["tickets"]
    sender("arrange", plan=asdict(which), seed=seed, tickets=tickets)


@contextmanager
def neighbour() -> Iterator[None]:
    """A decode-like loop in another process, running before the context begins."""
    with subprocess.Popen(
        [sys.executable, str(Path(decode.__file__))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        try:
            process.stdout.readline()
            yield
        finally:
            process.stdin.close()
            process.wait()
