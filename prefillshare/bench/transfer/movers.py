"""What moves bytes between the two processes of a measurement.

A receiver lends its memory, a sender writes to it. One `ticket` is one transfer: what
the receiver hands over beforehand so that the sender may write, as values of JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from prefillshare.bench.transfer.bare import BareReceiver, BareSender
from prefillshare.bench.transfer.engines import open_place
from prefillshare.bench.transfer.ours import OurReceiver, OurSender
from prefillshare.bench.transfer.shapes import Memory, Plan
from prefillshare.bench.transfer.specs import Bare, Ours

Ticket = dict[str, Any]


class Receiver(Protocol):
    """The side whose memory is written to."""

    @property
    def memory(self) -> Memory:
        """The bytes that are written to, zero at first."""

    @property
    def address(self) -> str:
        """Where the sender finds it."""

    def arrange(self, plan: Plan, count: int) -> list[Ticket]:
        """Be ready for `count` transfers of a plan, one after the other."""

    def settle(self) -> None:
        """Return when all transfers that were arranged have come, or raise."""

    def close(self) -> None:
        """Free what it holds."""


class Sender(Protocol):
    """The side that writes."""

    @property
    def memory(self) -> Memory:
        """The bytes that are sent, zero at first."""

    def connect(self, address: str) -> None:
        """Reach the receiver."""

    def arrange(self, plan: Plan, tickets: Sequence[Ticket]) -> None:
        """Be ready for as many transfers of a plan as there are tickets."""

    def move(self) -> None:
        """The next transfer; returns when the receiver has all of it."""

    def close(self) -> None:
        """Free what it holds."""


def make_receiver(
    spec: Ours | Bare, size: int, timeout: float, certificates: Path | None
) -> Receiver:
    """The receiver of a contestant with `size` bytes; `timeout` seconds for anything.

    `certificates` is a folder of them, for those that encrypt.
    """
    if isinstance(spec, Ours):
        return OurReceiver(open_place(spec, size, certificates, {}), timeout)
    return BareReceiver(spec, size, timeout, certificates)


def make_sender(
    spec: Ours | Bare,
    size: int,
    timeout: float,
    certificates: Path | None,
    routes: Mapping[str, str],
) -> Sender:
    """The sender of a contestant, as `make_receiver`.

    A receiver in `routes` is reached by another address than its own.
    """
    if isinstance(spec, Ours):
        return OurSender(open_place(spec, size, certificates, routes), timeout)
    return BareSender(spec, size, timeout, certificates, routes)
