"""What every exporter and importer must do, over TCP and within one process."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from prefillshare.errors import (
    ConfigError,
    TransferBroken,
    TransferClosed,
    TransferIntegrityError,
    TransferRefused,
)
from prefillshare.transfer.tickets.base import (
    Exporter,
    Importer,
    Ticket,
    TransferStats,
)
from prefillshare.transfer.tickets.leases import ExportTable
from prefillshare.transfer.tickets.memory import Fault, MemoryExporter, MemoryNetwork
from prefillshare.transfer.tickets.tcp import TcpExporter, TcpImporter

BLOCKS, SIZE, STEP = 5, 10_000, 4096
WAIT = 5.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Proxy:
    """Passes one connection on to a port, with a fault in what comes back."""

    def __init__(self, port: int, fault: Fault) -> None:
        self._target, self._fault = port, fault
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self._target))
        with client, server, contextlib.suppress(OSError):
            server.sendall(client.recv(64, socket.MSG_WAITALL))
            data = bytearray(server.recv(SIZE, socket.MSG_WAITALL))
            if self._fault is Fault.CORRUPT:
                data[200] ^= 1
            client.sendall(data)
            if self._fault is Fault.CORRUPT:
                client.recv(1)

    def close(self) -> None:
        self._thread.join()
        self._listener.close()


class Harness:
    def __init__(self, kind: str) -> None:
        self.clock = Clock()
        self.exporter: TcpExporter | MemoryExporter
        self.importer: Importer
        self.network: MemoryNetwork | None = None
        if kind == "tcp":
            self.exporter = TcpExporter(slice_bytes=STEP, clock=self.clock)
            self.importer = TcpImporter()
        else:
            self.network = MemoryNetwork(slice_bytes=STEP, clock=self.clock)
            self.exporter = self.network.exporter()
            self.importer = self.network.importer()
        self.source = [bytearray(os.urandom(SIZE)) for _ in range(BLOCKS)]
        self.target = [bytearray(SIZE) for _ in range(BLOCKS)]
        self.releases = 0
        self.released = threading.Event()

    def _release(self) -> None:
        self.releases += 1
        self.released.set()

    def export(self) -> Ticket:
        exporter: Exporter = self.exporter
        return exporter.export([memoryview(b) for b in self.source], self._release)

    def fetch(self, ticket: Ticket) -> TransferStats:
        return self.importer.fetch(ticket, [memoryview(b) for b in self.target], WAIT)

    def fetch_with(self, fault: Fault, ticket: Ticket) -> None:
        if self.network:
            self.network.script(fault)
            self.fetch(ticket)
            return
        proxy = Proxy(ticket.port, fault)
        try:
            self.fetch(replace(ticket, port=proxy.port))
        finally:
            proxy.close()


@pytest.fixture(params=["tcp", "memory"])
def side(request: pytest.FixtureRequest) -> Iterator[Harness]:
    before = set(threading.enumerate())
    harness = Harness(request.param)
    yield harness
    harness.exporter.close()
    assert set(threading.enumerate()) == before


def test_moves_every_byte_and_releases_once(side: Harness) -> None:
    ticket = side.export()
    stats = side.fetch(Ticket.from_dict(ticket.to_dict()))
    assert side.target == side.source
    assert stats.bytes == side.exporter.bytes_sent == BLOCKS * SIZE
    assert stats.blocks == BLOCKS
    assert stats.gbps == pytest.approx(stats.bytes * 8 / stats.seconds / 1e9)
    assert side.released.wait(WAIT)
    side.exporter.cancel(ticket.transfer_id)
    side.exporter.close()
    side.exporter.close()
    assert side.releases == 1


def test_an_export_is_cut_into_slices_of_its_own(side: Harness) -> None:
    blocks = [memoryview(block) for block in side.source]
    size = blocks[0].nbytes // 3
    ticket = side.exporter.export(blocks, side._release, size)
    assert ticket.slice_bytes == size != side.export().slice_bytes
    side.fetch(ticket)
    assert side.target == side.source


def test_is_served_once(side: Harness) -> None:
    ticket = side.export()
    side.fetch(ticket)
    with pytest.raises(TransferRefused):
        side.fetch(ticket)
    assert side.releases == 1


@pytest.mark.parametrize("name", ["capability", "transfer_id"])
def test_stranger_is_refused_and_the_owner_still_served(
    side: Harness, name: str
) -> None:
    ticket = side.export()
    right = getattr(ticket, name)
    wrong = right[:-1] + ("0" if right[-1] != "0" else "1")
    with pytest.raises(TransferRefused):
        side.fetch(replace(ticket, **{name: wrong}))
    assert side.releases == 0
    side.fetch(ticket)
    assert side.target == side.source


def test_cancel_releases_and_refuses(side: Harness) -> None:
    ticket, other = side.export(), side.export()
    side.exporter.cancel(ticket.transfer_id)
    side.exporter.cancel(ticket.transfer_id)
    assert side.releases == 1
    with pytest.raises(TransferRefused):
        side.fetch(ticket)
    side.fetch(other)


def test_lease_expiry_releases_and_refuses(side: Harness) -> None:
    ticket = side.export()
    side.clock.now = 59.9
    side.exporter.recheck_leases()
    assert not side.released.is_set()
    side.clock.now = 60.0
    with pytest.raises(TransferRefused):
        side.fetch(ticket)
    side.exporter.recheck_leases()
    assert side.released.wait(WAIT)
    side.exporter.close()
    assert side.releases == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [(Fault.CORRUPT, TransferIntegrityError), (Fault.BREAK, TransferBroken)],
)
def test_a_failed_fetch_may_be_repeated(
    side: Harness, fault: Fault, error: type[Exception]
) -> None:
    ticket = side.export()
    with pytest.raises(error):
        side.fetch_with(fault, ticket)
    assert side.releases == 0
    side.fetch(ticket)
    assert side.target == side.source
    assert side.released.wait(WAIT)
    side.exporter.close()
    assert side.releases == 1


def test_close_releases_and_ends_the_endpoint(side: Harness) -> None:
    ticket = side.export()
    side.exporter.close()
    assert side.releases == 1
    with pytest.raises(TransferBroken):
        side.fetch(ticket)
    with pytest.raises(TransferClosed):
        side.export()
    assert side.releases == 1


def test_failing_release_does_not_fail_the_fetch(side: Harness) -> None:
    def release() -> None:
        raise RuntimeError("release")

    ticket = side.exporter.export([memoryview(b) for b in side.source], release)
    side.fetch(ticket)
    side.fetch(side.export())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda views: views[1:],
        lambda views: [view[1:] for view in views],
        lambda views: [view.toreadonly() for view in views],
        lambda views: [memoryview(bytearray(2 * SIZE))[::2] for _ in views],
    ],
)
def test_targets_must_fit(
    side: Harness, spoil: Callable[[list[memoryview]], list[memoryview]]
) -> None:
    views = spoil([memoryview(b) for b in side.target])
    with pytest.raises(ValueError, match="target|contiguous"):
        side.importer.fetch(side.export(), views, WAIT)


def test_unequal_or_no_blocks_cannot_be_exported(side: Harness) -> None:
    for blocks in ([], [memoryview(b"ab"), memoryview(b"a")], [memoryview(b"")]):
        with pytest.raises(ValueError, match="same size"):
            side.exporter.export(blocks, lambda: None)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org", "::"])
def test_other_than_loopback_is_a_config_error(host: str) -> None:
    with pytest.raises(ConfigError, match="unencrypted"):
        TcpExporter(host)


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": 0},
        {"blocks": 2**40},
        {"blocks": True},
        {"blocks": "4"},
        {"bytes_per_block": 2**40},
        {"slice_bytes": 4097},
        {"port": 65536},
        {"host": ""},
        {"transfer_id": "A" * 32},
        {"capability": "0" * 63 + "\n"},
        {"capability": None},
        {"extra": 1},
    ],
)
def test_malformed_ticket_is_a_value_error(change: dict[str, object]) -> None:
    good = Ticket("0" * 32, "1" * 64, "127.0.0.1", 1, 4, 4096, 4096)
    assert Ticket.from_dict(good.to_dict()) == good
    assert "1111" not in repr(good)
    with pytest.raises(ValueError, match="ticket|blocks|bytes"):
        Ticket.from_dict(good.to_dict() | change)
    with pytest.raises(ValueError, match="missing"):
        Ticket.from_dict({})


def test_an_abandoned_fetch_does_not_end_a_later_one() -> None:
    table = ExportTable(60.0)
    ticket = table.add([memoryview(b"a")], lambda: None, ("memory", 1), 1)
    names = bytes.fromhex(ticket.transfer_id), bytes.fromhex(ticket.capability)
    first, second, third = (table.turn() for _ in range(3))
    ended: list[int] = []
    lease = table.enter(*names, second, lambda: ended.append(second))
    with pytest.raises(TransferRefused, match="later"):
        table.enter(*names, first, lambda: ended.append(first))
    assert not ended
    table.enter(*names, third, lambda: ended.append(third))
    assert ended == [second]
    table.leave(lease, second)
    table.leave(lease, third)
    table.close()
