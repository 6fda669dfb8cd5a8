"""A pair within this process, over an engine that moves by copying."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prefillshare.bench.transfer import engines, pair
from prefillshare.bench.transfer.found import Found
from prefillshare.bench.transfer.orders import Worker
from prefillshare.bench.transfer.processes import Ask, Facts
from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.bench.transfer.specs import Bare, Ours
from prefillshare.bench.transfer.worker import ROLES
from prefillshare.transfer.base import Engine
from prefillshare.transfer.memory import MemoryNetwork


class Here:
    """A worker in this process, asked as a child is: in values of JSON."""

    def __init__(self, role: str) -> None:
        self._role = role
        self._worker: Worker | None = None
        self.orders: list[str] = []

    def __call__(self, order: str, **arguments: Any) -> Facts:
        self.orders.append(order)
        arguments = json.loads(json.dumps(arguments))
        if self._worker is None:
            self._worker = ROLES[self._role](**arguments)
            return {}
        found: Facts = json.loads(json.dumps(self._worker.answer(order, arguments)))
        return found


class InProcess:
    """Measures ours over a network of memory; `network` may be given faults."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.receiver: Here | None = None

    def make_engine(self, *_: object) -> Engine:
        return self.network.engine()

    def run(
        self, settings: TransferBenchSettings, spec: Ours | Bare, number: int
    ) -> list[Found]:
        receiver, sender = self.ends(spec, settings.total_bytes)
        return pair.measure(settings, spec, number, receiver, sender)

    def ends(self, spec: Ours | Bare, size: int) -> tuple[Ask, Ask]:
        self.receiver, sender = Here("receiver"), Here("sender")
        made = {"spec": spec.model_dump(), "size": size, "timeout": 60}
        self.receiver("begin", certificates=None, **made)
        sender("begin", certificates=None, routes={}, **made)
        sender("connect", **self.receiver("address"))
        return self.receiver, sender


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> InProcess:
    made = InProcess()
    monkeypatch.setattr(engines, "make_engine", made.make_engine)
    return made


@pytest.fixture
def small() -> TransferBenchSettings:
    """Sizes that take no time, between two ends."""
    return TransferBenchSettings(
        total_bytes=1 << 16,
        rounds=2,
        shapes=["contiguous", "scattered", "small", "grouped", "latency"],
        scattered_block_bytes=1 << 12,
        small_block_bytes=1 << 8,
        small_blocks=96,
        latency_bytes=1 << 8,
        latency_samples=5,
        loads=["idle", "caller"],
        timeout_seconds=60,
    )
