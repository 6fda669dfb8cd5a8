"""A batch as a transfer takes it: checked, and known by what it writes to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from prefillshare.transfer.base import Batch, Grant, Ranges, Region
from prefillshare.transfer.ranges import (
    as_ranges,
    check_disjoint,
    check_within,
    joined,
)
from prefillshare.transfer.rows import Covered
from prefillshare.transfer.tcp import frames


@dataclass(frozen=True)
class Checked:
    """All of a batch that is known when its transfer begins.

    A `small` one, to write, goes whole with the frame that begins it; of another what
    it writes to is in `covered`. Raises `ValueError` as `Link.read`.
    """

    local: Ranges
    remote: Ranges
    small: bool
    covered: Covered = field(default_factory=Covered)

    @classmethod
    def of(cls, batch: Batch, region: Region, grant: Grant) -> Checked:
        """A batch between a region and a grant."""
        local, remote = split(batch, region, grant)
        checked = cls(local, remote, grant.access == "write" and _is_small(local))
        target = written(grant, local, remote)
        if checked.small:
            check_disjoint(target)
        else:
            checked.covered.add(target)
        return checked

    @property
    def extent(self) -> tuple[int, int]:
        """Bytes, and pieces of memory on the side that has more."""
        pieces = max(len(joined(self.local)), len(joined(self.remote)))
        return int(self.local[:, 1].sum()), pieces


def split(batch: Batch, region: Region, grant: Grant) -> tuple[Ranges, Ranges]:
    """Local and remote ranges of a batch; `ValueError` if they are out of bounds."""
    whole = as_ranges(batch, 3)
    local, remote = whole[:, [0, 2]], whole[:, 1:]
    check_within(local, region.memory.nbytes, "the region")
    check_within(remote, grant.size, "the grant")
    return local, remote


def written(grant: Grant, local: Ranges, remote: Ranges) -> Ranges:
    """Which of a batch's ranges a transfer writes to."""
    return remote if grant.access == "write" else local


def parts(ranges: Ranges) -> Iterator[Ranges]:
    """Ranges as they travel, so many a frame; neighbours are joined."""
    whole = joined(ranges)
    for first in range(0, len(whole), frames.MAX_RANGES):
        yield whole[first : first + frames.MAX_RANGES]


def _is_small(ranges: Ranges) -> bool:
    few = len(ranges) <= frames.MAX_EAGER_RANGES
    return few and int(ranges[:, 1].sum()) <= frames.EAGER_BYTES
