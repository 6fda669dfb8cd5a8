"""A worker's place on its host: memory of the agent's arena, and the ways out of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prefillshare.errors import ConfigError, TransferError, TransferTimeout
from prefillshare.transfer.agent.client import AgentEngine
from prefillshare.transfer.base import (
    Grant,
    GrantEnd,
    Link,
    Ranges,
    Region,
    Transfer,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PoolMemory:
    """Memory of a pool of blocks; `region` is what the agent knows it by."""

    view: memoryview
    region: Region
    bytes_per_block: int

    def ranges(self, blocks: Sequence[int]) -> Ranges:
        """Where blocks lie in the region."""
        starts = np.array(blocks, np.int64) * self.bytes_per_block
        return np.stack([starts, np.full_like(starts, self.bytes_per_block)], axis=1)


class Host:
    """The agent of this host, as one worker uses it.

    Raises:
        ConfigError: no agent is configured.
        TransferBroken: none answers.
    """

    def __init__(self, socket: Path | None) -> None:
        if socket is None:
            raise ConfigError(
                "no `agent` is configured, and a worker moves KV through one; start "
                "`prefillshare serve agent` and name its socket, or start everything "
                "with `prefillshare serve all`"
            )
        self._engine = AgentEngine(str(socket))
        self._links: dict[str, Link] = {}
        self._regions: list[Region] = []
        self.bytes_sent = 0

    def pool(self, blocks: int, bytes_per_block: int) -> PoolMemory:
        """Memory for so many blocks, for as long as the worker lives.

        Raises:
            CapacityError: the agent's arena is too small.
        """
        view = self._engine.allocate(blocks * bytes_per_block)
        region = self._engine.register(view)
        self._regions.append(region)
        return PoolMemory(view, region, bytes_per_block)

    def lend(
        self,
        memory: PoolMemory,
        blocks: Sequence[int],
        release: Callable[[], None],
        lease_seconds: float,
    ) -> Grant:
        """Let whoever holds the grant read the blocks, once.

        `release` is called exactly once, on a thread of the engine, when nobody reads
        them any more: they were read, withdrawn, or the lease is over. It is not called
        if this raises. What was read whole counts in `bytes_sent`.
        """

        def ended(end: GrantEnd) -> None:
            self.bytes_sent += end.bytes
            release()

        ranges = memory.ranges(blocks)
        return self._engine.grant(memory.region, ranges, "read", ended, lease_seconds)

    def withdraw(self, grant_id: str) -> None:
        """End a loan early; a no-op if it is over."""
        self._engine.revoke(grant_id)

    def pull(
        self, grant: Grant, memory: PoolMemory, blocks: Sequence[int], timeout: float
    ) -> Transfer:
        """Read lent blocks into as many of `memory`, in order; one thread at a time.

        Raises:
            TransferError: the lender cannot be reached.
        """
        if (link := self._links.get(grant.address)) is None:
            link = self._links[grant.address] = self._engine.connect(
                grant.address, timeout
            )
        local = memory.ranges(blocks)
        remote = np.arange(len(blocks), dtype=np.int64) * memory.bytes_per_block
        batch = np.stack([local[:, 0], remote, local[:, 1]], axis=1)
        return link.read(grant, memory.region, batch, timeout=timeout)

    def end_loans(self) -> None:
        """Lend nothing any more; every `release` has been called on return.

        But for those of memory that a peer will not let go of, which the log names: the
        agent keeps it from others.
        """
        while self._regions:
            try:
                self._engine.deregister(self._regions.pop())
            except TransferTimeout as error:
                _log.warning("%s", error)
            except TransferError:
                # An agent that is gone has ended them all.
                continue

    def close(self) -> None:
        """Give the memory back, which nobody may use any more. May be repeated."""
        self._engine.close()
