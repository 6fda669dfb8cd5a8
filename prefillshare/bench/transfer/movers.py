"""What moves bytes between the two processes of a measurement.

A receiver lends its memory, a sender writes to it. One `ticket` is one transfer: what
the receiver hands over beforehand so that the sender may write, as values of JSON.
"""

from __future__ import annotations

from typing import Any, Protocol

from prefillshare.bench.transfer.bare import BareReceiver, BareSender
from prefillshare.bench.transfer.ours import OurReceiver, OurSender
from prefillshare.bench.transfer.settings import Bare, Ours
from prefillshare.bench.transfer.shapes import Memory, Plan

Ticket = dict[str, Any]


class Receiver(Protocol):
    """The side whose memory is written to."""

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

    def connect(self, address: str) -> None:
        """Reach the receiver."""

    def arrange(self, plan: Plan) -> None:
        """Be ready for transfers of a plan."""

    def move(self, ticket: Ticket) -> None:
        """One transfer; returns when the receiver has all of it."""

    def close(self) -> None:
        """Free what it holds."""


def make_receiver(spec: Ours | Bare, memory: Memory, timeout: float) -> Receiver:
    """The receiver of a contestant over `memory`; `timeout` seconds for anything."""
    if isinstance(spec, Ours):
        return OurReceiver(spec, memory, timeout)
    return BareReceiver(spec, memory, timeout)


def make_sender(spec: Ours | Bare, memory: Memory, timeout: float) -> Sender:
    """The sender of a contestant out of `memory`; `timeout` seconds for anything."""
    if isinstance(spec, Ours):
        return OurSender(spec, memory, timeout)
    return BareSender(spec, memory, timeout)
