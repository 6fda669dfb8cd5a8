"""When bytes that enter a link come out of it: arithmetic, without a clock.

One direction of a link is a queue before a line. The line carries `rate` bits a second,
nothing while it stalls; what it has carried is `delay` (and up to `jitter` more) under
way. Nothing overtakes, and nothing is lost: what TCP makes of losses, and how it
finds out a link's rate, is not emulated.
"""

from __future__ import annotations

import random
from math import ceil
from typing import Self

from pydantic import Field, model_validator

from prefillshare.config import Config

# A round trip of 100 ms at 20 Gbit/s: more than the emulator carries.
UNDER_WAY_BYTES = 1 << 28


class LinkSettings(Config):
    """One direction of a link; both have the same.

    Attributes:
        rate: in bits per second; null carries as fast as the host does, with at most
            `UNDER_WAY_BYTES` under way.
        delay: one way, in seconds: half of what a round trip takes.
        jitter: at most so much more, in seconds, drawn evenly by `seed`.
        stall_every, stall: after each `stall_every` seconds of service the line stands
            still for `stall` seconds.
        queue_bytes: before the line, beyond what is under way; when it is full, the
            sender has to wait.
    """

    rate: float | None = Field(None, gt=0.0)
    delay: float = Field(0.0, ge=0.0)
    jitter: float = Field(0.0, ge=0.0)
    stall_every: float | None = Field(None, gt=0.0)
    stall: float = Field(0.0, ge=0.0)
    queue_bytes: int = Field(1 << 20, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.stall_every is None) != (self.stall == 0.0):
            raise ValueError(
                f"`stall_every` ({self.stall_every}) and `stall` ({self.stall}) go "
                "together; set both or neither"
            )
        return self

    @property
    def capacity(self) -> float:
        """Bytes that the link holds at most: queued and under way."""
        if not (long := self.delay + self.jitter):
            return self.queue_bytes
        if self.rate is None:
            # What is under way has no bound of its own, where the reader stops.
            return self.queue_bytes + UNDER_WAY_BYTES
        return self.queue_bytes + self.rate / 8 * long


class Shaper:
    """One direction of a link, shared by all connections over it.

    Times are in seconds of any one clock, beginning at `start`. `way` is its number:
    each direction draws jitter of its own.
    """

    def __init__(
        self, settings: LinkSettings, start: float = 0.0, way: int = 0
    ) -> None:
        self._settings = settings
        self._start = self._free = self._out = start
        self._random = random.Random(f"{settings.seed} {way}")

    def carry(self, now: float, size: int) -> float:
        """When `size` bytes that enter now have come out at the other end."""
        settings = self._settings
        seconds = 0.0 if settings.rate is None else 8 * size / settings.rate
        self._free = self._served(max(now, self._free), seconds)
        under_way = settings.delay + self._random.uniform(0.0, settings.jitter)
        self._out = max(self._out, self._free + under_way)
        return self._out

    def _served(self, begin: float, seconds: float) -> float:
        """When the line has worked for `seconds` from `begin` on."""
        every, stall = self._settings.stall_every, self._settings.stall
        if every is None:
            return begin + seconds
        laps, at = divmod(begin - self._start, every + stall)
        if at > every:
            # It stands still: what enters now is served when the next lap begins.
            laps, at = laps + 1, 0.0
        worked = laps * every + at + seconds
        stalls = max(laps, ceil(worked / every) - 1)
        return self._start + worked + stalls * stall
