"""What an engine keeps of its grants: each ends once, and its owner is told once."""

from __future__ import annotations

import heapq
import hmac
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from prefillshare.errors import (
    TransferClosed,
    TransferEnded,
    TransferRefused,
    TransferTimeout,
)
from prefillshare.transfer.base import (
    CAPABILITY_BYTES,
    ID_BYTES,
    Access,
    Grant,
    GrantEnd,
    Outcome,
    Region,
)
from prefillshare.transfer.ranges import Pieces

_log = logging.getLogger(__name__)
# One text for all reasons: a stranger cannot learn which grants exist.
REFUSED = "grant unknown, used or over, wrong capability, or not for this access"
_WHY = {
    Outcome.REVOKED: "the peer withdrew the grant",
    Outcome.EXPIRED: "the lease of the grant expired; ask for another, or longer",
    Outcome.CLOSED: "the peer's engine was closed",
}


@dataclass(eq=False)
class Loan:
    """One transfer's stay within a grant, from `enter` to `leave`.

    `why` says that it was broken off, from before `abort` is told so.
    """

    grant_id: bytes
    pieces: Pieces
    abort: Callable[[Exception], None]
    why: TransferEnded | None = None
    turn: Callable[[], None] | None = None

    def end(self, why: str) -> None:
        """Break the transfer off, once."""
        if self.why is None:
            self.why = TransferEnded(why)
            self.abort(self.why)


@dataclass(eq=False)
class _Kept:
    """One grant until its owner has been told of its end."""

    grant: Grant
    region: int
    pieces: Pieces
    on_end: Callable[[GrantEnd], None]
    deadline: float
    inside: list[Loan] = field(default_factory=list)
    end: GrantEnd | None = None


class GrantTable:
    """Grants by id, with one thread that ends the expired ones and calls `on_end`.

    `clock` measures leases, in seconds. Any thread may call.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._kept: dict[bytes, _Kept] = {}
        self._deadlines: list[tuple[float, bytes]] = []
        self._over: deque[_Kept] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="grants", daemon=True)
        self._thread.start()

    def add(
        self,
        pieces: Pieces,
        access: Access,
        address: str,
        engine_id: str,
        on_end: Callable[[GrantEnd], None],
        lease_seconds: float,
        region: int = 0,
    ) -> Grant:
        """Lend `pieces`, which belong to `region`; see `Engine.grant` for errors."""
        if not 0 < lease_seconds <= threading.TIMEOUT_MAX:
            raise ValueError(f"lease_seconds is {lease_seconds}; pass one above 0")
        key = secrets.token_bytes(ID_BYTES)
        secret = secrets.token_hex(CAPABILITY_BYTES)
        grant = Grant(address, engine_id, key.hex(), secret, access, pieces.size)
        with self._changed:
            if self._closed:
                raise TransferClosed("the engine is closed; make a new one")
            deadline = self._clock() + lease_seconds
            self._kept[key] = _Kept(grant, region, pieces, on_end, deadline)
            heapq.heappush(self._deadlines, (deadline, key))
            # A thread that wakes for nothing takes the interpreter from a transfer.
            if self._deadlines[0][1] == key:
                self._changed.notify_all()
        return grant

    def enter(
        self,
        grant_id: bytes,
        capability: bytes,
        access: Access,
        abort: Callable[[Exception], None],
    ) -> Loan:
        """Begin a transfer; what is under way on the grant is broken off.

        `abort` is told why its transfer must end early, at most once and not after
        `leave`; it runs under the table's lock, so it must not block. Each call is
        followed by exactly one `leave`. Raises `TransferRefused`.
        """
        with self._changed:
            kept = self._kept.get(grant_id)
            known = kept.grant.capability if kept else "0" * 2 * CAPABILITY_BYTES
            same = hmac.compare_digest(bytes.fromhex(known), capability)
            if not (kept and same) or kept.end or kept.grant.access != access:
                raise TransferRefused(REFUSED)
            if self._clock() >= kept.deadline:
                raise TransferRefused(REFUSED)
            loan = Loan(grant_id, kept.pieces, abort)
            for earlier in list(kept.inside):
                earlier.end("a later transfer of the same grant took its place")
            kept.inside.append(loan)
            return loan

    def first(self, loan: Loan, timeout: float) -> bool:
        """Wait, at most `timeout` seconds, until what came before `loan` has left.

        What writes to a grant begins after that, or an earlier transfer could still
        change what was verified.
        """
        kept = self._kept[loan.grant_id]
        with self._changed:
            return self._changed.wait_for(lambda: kept.inside[0] is loan, timeout)

    def first_or_later(self, loan: Loan, turn: Callable[[], None]) -> bool:
        """As `first`, without a wait: if it is False, `turn` is called once it is True.

        `turn` runs under the table's lock, so it must not block; it is not called after
        `leave`, which may have come before this.
        """
        with self._changed:
            kept = self._kept.get(loan.grant_id)
            if kept and kept.inside and kept.inside[0] is loan:
                return True
            loan.turn = turn
            return False

    def leave(self, loan: Loan, done: GrantEnd | None) -> bool:
        """End a transfer, and the grant with it if `done` says how.

        False if the transfer had been broken off: `done` does not count then, and the
        peer is told that it was ended.
        """
        with self._changed:
            kept = self._kept[loan.grant_id]
            kept.inside.remove(loan)
            accepted = loan.why is None and kept.end is None
            if done and accepted:
                kept.end = done
            self._settle(kept)
            _next_turn(kept)
            self._changed.notify_all()
            return accepted

    def revoke(self, grant_id: str) -> None:
        """Withdraw by hexadecimal id; an unknown id is ignored."""
        key = bytes.fromhex(grant_id)
        with self._changed:
            if kept := self._kept.get(key):
                self._end([kept], Outcome.REVOKED)

    def revoke_region(self, region: int, timeout: float) -> bool:
        """Withdraw all grants of a region; whether nobody is at its memory any more.

        Waits for that, at most `timeout` seconds, and until the owners have been told;
        not for the latter from `on_end`, which must return before another can be told.
        """

        def mine() -> list[_Kept]:
            return [each for each in self._kept.values() if each.region == region]

        def free() -> bool:
            return not any(each.inside for each in mine())

        with self._changed:
            self._end(mine(), Outcome.REVOKED)
            here = threading.current_thread() is self._thread
            self._changed.wait_for(free if here else lambda: not mine(), timeout)
            return free()

    @property
    def watched(self) -> int:
        """Leases whose time is kept, those of grants that are over among them."""
        with self._changed:
            return len(self._deadlines)

    def recheck(self) -> None:
        """Look for expired leases now, after an injected clock was set."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Withdraw everything, and take no more. Does not wait; may be repeated."""
        with self._changed:
            self._closed = True
            self._end(list(self._kept.values()), Outcome.CLOSED)

    def join(self, timeout: float) -> bool:
        """Wait, after `close`, until all owners were told; whether they were."""
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _end(self, several: Iterable[_Kept], outcome: Outcome) -> None:
        for kept in several:
            if kept.end is None:
                kept.end = GrantEnd(outcome)
                for loan in list(kept.inside):
                    loan.end(_WHY[outcome])
                self._settle(kept)
        self._changed.notify_all()

    def _settle(self, kept: _Kept) -> None:
        if kept.end and not kept.inside and kept not in self._over:
            self._over.append(kept)

    def _run(self) -> None:
        while kept := self._next_over():
            assert kept.end is not None
            try:
                kept.on_end(kept.end)
            except Exception:
                _log.exception("on_end of grant %s failed", kept.grant.grant_id)
            with self._changed:
                del self._kept[bytes.fromhex(kept.grant.grant_id)]
                self._changed.notify_all()
            # Its memory is not held until the next one is over.
            del kept

    def _next_over(self) -> _Kept | None:
        with self._changed:
            while True:
                until = self._expire()
                if self._over:
                    return self._over.popleft()
                if self._closed and not self._kept:
                    return None
                self._changed.wait(until)

    def _expire(self) -> float | None:
        """End what is due; seconds until the next lease is, None if there is none."""
        queue, now = self._deadlines, self._clock()
        # Grants end long before their leases do: the queue must not collect them.
        if len(queue) > 2 * len(self._kept) + 64:
            queue[:] = [(kept.deadline, key) for key, kept in self._kept.items()]
            heapq.heapify(queue)
        while queue and queue[0][0] <= now:
            _, key = heapq.heappop(queue)
            if kept := self._kept.get(key):
                self._end([kept], Outcome.EXPIRED)
        return queue[0][0] - now if queue else None


def _next_turn(kept: _Kept) -> None:
    if kept.inside and (turn := kept.inside[0].turn) is not None:
        kept.inside[0].turn = None
        turn()


def still_used(region: Region) -> TransferTimeout:
    """What `Engine.deregister` raises while somebody is at the memory."""
    return TransferTimeout(
        f"region {region.number} of {region.memory.nbytes} bytes is still read or "
        "written by a transfer that does not end: do not free the memory or use it for "
        "anything else; deregister the region again later, or close the engine"
    )
