"""The side that reads, writes and maps what another process lends."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prefillshare.errors import (
    TransferBroken,
    TransferError,
    TransferIntegrityError,
)
from prefillshare.transfer.arena import Window
from prefillshare.transfer.base import Access, Batch, Grant, Region
from prefillshare.transfer.beginning import check_asked
from prefillshare.transfer.fed import FedTransfer
from prefillshare.transfer.local import LocalLink, Mover, check_identity
from prefillshare.transfer.ranges import Pieces
from prefillshare.transfer.rows import coalesced, cut, placed
from prefillshare.transfer.shm import wire
from prefillshare.transfer.shm.connect import open_channel, until
from prefillshare.transfer.shm.lender import MAX_DATA_RANGES
from prefillshare.transfer.shm.mapping import Mapping
from prefillshare.transfer.shm.wire import Channel, Kind

if TYPE_CHECKING:
    from prefillshare.transfer.shm.engine import ShmEngine

# Between two looks at whether the lender wants its memory back.
_STEP = 1 << 20


class ShmTransfer(FedTransfer):
    """A `Transfer` whose mover waits for its peer and to be fed at the same time."""

    def __init__(self, region: Region, grant: Grant, timeout: float, note: bytes):
        super().__init__(region, grant, timeout, note)
        self.channel: Channel | None = None

    def wake(self) -> None:
        """See `FedTransfer.wake`."""
        if self.channel:
            self.channel.wake()

    def pause(self) -> None:
        """See `FedTransfer.pause`."""
        self.heed(self.remaining())

    def heed(self, seconds: float) -> None:
        """Wait for the peer, or to be woken; raise what the peer ends it with."""
        assert self.channel is not None
        if self.channel.ready(select.POLLIN, seconds):
            reply = self.channel.receive_reply(self.left)
            raise reply.error or TransferIntegrityError("the peer said OK too early")

    def left(self) -> float:
        """As `remaining`, and raise what stopped it."""
        self.check()
        return self.remaining()


class ShmLink(LocalLink):
    """A `Link` to another process of this host and user."""

    engine: ShmEngine

    def make(
        self, region: Region, grant: Grant, timeout: float, note: bytes
    ) -> ShmTransfer:
        """See `LocalLink.make`."""
        return ShmTransfer(region, grant, timeout, note)

    def mover(self, grant: Grant) -> Mover:
        """See `LocalLink.mover`."""
        return _Way(self._channel(grant, 10.0))

    def unused(self, move: Mover) -> None:
        """See `LocalLink.unused`."""
        assert isinstance(move, _Way)
        move.channel.close()

    def map(self, grant: Grant, timeout: float = 10.0, note: bytes = b"") -> Mapping:
        """See the granted pieces without a copy; the grant is used up by that.

        Raises as `read`, and what `Transfer.wait` says of a refused grant.
        """
        check_asked(grant, "read", timeout, note)
        self.check(grant)
        left = until(timeout, self.address)
        channel = self._channel(grant, timeout)
        try:
            reply = _ask(channel, grant, Kind.MAP, left)
            try:
                return Mapping(channel, reply, note)
            finally:
                os.close(reply.descriptor)
        except BaseException as error:
            channel.close()
            if isinstance(error, OSError):
                raise TransferBroken(f"{self.address}: {error}") from error
            raise

    def _channel(self, grant: Grant, timeout: float) -> Channel:
        channel, there = open_channel(self.address, timeout)
        try:
            check_identity(grant, there)
        except TransferError:
            channel.close()
            raise
        return channel


@dataclass(frozen=True)
class _Way:
    """Moves one transfer over a channel."""

    channel: Channel

    def __call__(self, transfer: FedTransfer) -> None:
        assert isinstance(transfer, ShmTransfer)
        transfer.channel = self.channel
        try:
            _move(transfer, self.channel)
        finally:
            self.channel.close()


def _ask(
    channel: Channel, grant: Grant, kind: Kind, left: Callable[[], float]
) -> wire.Reply:
    key, secret = bytes.fromhex(grant.grant_id), bytes.fromhex(grant.capability)
    channel.send([wire.REQUEST.pack(kind, key, secret)], left)
    reply = channel.receive_reply(left, descriptors=0 if kind == Kind.WRITE else 1)
    if reply.error:
        raise reply.error
    if kind != Kind.WRITE and (
        reply.descriptor < 0
        or reply.ranges is None
        or not len(reply.ranges)
        or int(reply.ranges[:, 1].sum()) != grant.size
    ):
        if reply.descriptor >= 0:
            os.close(reply.descriptor)
        raise TransferIntegrityError("the peer lends other memory than the grant says")
    return reply


def _move(transfer: ShmTransfer, channel: Channel) -> None:
    access: Access = transfer.grant.access
    kind = Kind.READ if access == "read" else Kind.WRITE
    reply = _ask(channel, transfer.grant, kind, transfer.left)
    if access == "read":
        _read(transfer, reply)
    else:
        for batch in transfer.batches():
            _write(transfer, channel, batch)
    moved = transfer.progress[0]
    head = wire.MESSAGE.pack(Kind.DONE, len(transfer.note), moved)
    channel.send([head, transfer.note], transfer.left)
    if error := channel.receive_reply(transfer.left).error:
        raise error


def _read(transfer: ShmTransfer, reply: wire.Reply) -> None:
    """Copy from the lender's memory into this process's.

    No checksums: both mappings are the same pages, so there is no medium between them
    to corrupt a byte, and a process of this user could change the copy as well as the
    source. What a checksum guards against elsewhere cannot happen here.
    """
    assert reply.ranges is not None
    try:
        first = int(reply.ranges[:, 0].min())
        last = int(reply.ranges.sum(axis=1).max())
        window = Window(reply.descriptor, first, last)
    finally:
        os.close(reply.descriptor)
    try:
        pieces = Pieces(window.view, reply.ranges - np.array([first, 0]))
        for batch in transfer.batches():
            _copy(transfer, cut(placed(batch, pieces), _STEP), window.view)
        del pieces
    finally:
        window.close()


def _copy(transfer: ShmTransfer, rows: Batch, memory: memoryview) -> None:
    # numpy copies without the interpreter's lock.
    source = np.frombuffer(memory, np.uint8)
    target = np.frombuffer(transfer.region.memory, np.uint8)
    unseen = _STEP
    try:
        for near, far, length in rows.tolist():
            if unseen >= _STEP:
                transfer.check()
                transfer.heed(0)
                unseen = 0
            target[near : near + length] = source[far : far + length]
            transfer.count(length)
            # Many small ranges take as long as few large ones.
            unseen += max(length, _STEP >> 8)
    finally:
        # An error's traceback would keep it, and with it the mapping.
        del source


def _write(transfer: ShmTransfer, channel: Channel, batch: Batch) -> None:
    memory = transfer.region.memory
    rows = cut(coalesced(batch), _STEP)
    for first in range(0, len(rows), MAX_DATA_RANGES):
        part = rows[first : first + MAX_DATA_RANGES]
        size = int(part[:, 2].sum())
        head = wire.MESSAGE.pack(Kind.DATA, len(part), size)
        views = [memory[near : near + n] for near, _, n in part.tolist()]
        table = part[:, 1:].astype("<i8").tobytes()
        try:
            channel.send([head, table, *views], transfer.left)
        except TransferBroken:
            # The lender may have said why before it hung up.
            transfer.heed(0)
            raise
        transfer.heed(0)
        transfer.count(size)
