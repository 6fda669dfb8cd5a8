"""A batch as a transfer takes it."""

from __future__ import annotations

from dataclasses import dataclass

from prefillshare.transfer.base import Batch, Grant, Ranges, Region
from prefillshare.transfer.ranges import as_ranges, check_within, joined
from prefillshare.transfer.tcp import frames


@dataclass(frozen=True)
class Checked:
    """`rows` of a batch as ranges on both sides, neighbours joined.

    `size` is in bytes. A `small` one travels in one frame, if it is to write.
    """

    rows: int
    local: Ranges
    remote: Ranges
    size: int

    @classmethod
    def of(cls, batch: Batch, region: Region, grant: Grant) -> Checked:
        """A batch between a region and a grant; `ValueError` if it is not in them."""
        whole = as_ranges(batch, 3)
        local, remote = whole[:, [0, 2]], whole[:, 1:]
        check_within(local, region.memory.nbytes, "the region")
        check_within(remote, grant.size, "the grant")
        size = int(whole[:, 2].sum())
        return cls(len(whole), joined(local), joined(remote), size)

    @property
    def pieces(self) -> int:
        """Ranges on the side that has more, as far as this side knows."""
        return max(len(self.local), len(self.remote))

    @property
    def small(self) -> bool:
        """Whether one frame takes all of it."""
        few = self.pieces <= frames.MAX_EAGER_RANGES
        return few and self.size <= frames.EAGER_BYTES

    def written(self, grant: Grant) -> Ranges:
        """The ranges that a transfer of this grant writes to."""
        return self.remote if grant.access == "write" else self.local

    def parts(self) -> list[Ranges]:
        """Remote ranges as they travel, so many a frame."""
        most = frames.MAX_RANGES
        return [self.remote[n : n + most] for n in range(0, len(self.remote), most)]
