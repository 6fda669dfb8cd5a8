"""Who has which part of an arena."""

from __future__ import annotations

import bisect

from prefillshare.errors import CapacityError

_PAGE = 4096


def whole_pages(size: int) -> int:
    """Bytes that an allocation of `size` takes."""
    return -(-size // _PAGE) * _PAGE


class Space:
    """First-fit allocation of whole pages; not safe for concurrent use."""

    def __init__(self, size: int) -> None:
        self._size = size
        # Disjoint (first, last), by their first byte.
        self._taken: list[tuple[int, int]] = []

    @property
    def free(self) -> int:
        """Bytes that nobody has."""
        return self._size - sum(last - first for first, last in self._taken)

    def allocate(self, size: int) -> int:
        """The first byte of `size` free ones.

        `CapacityError` if there are none, `ValueError` for less than one byte: two may
        not begin at one place.
        """
        if size < 1:
            raise ValueError(f"{size} bytes cannot be allocated; ask for one or more")
        need = whole_pages(size)
        first = 0
        for low, high in [*self._taken, (self._size, self._size)]:
            if low - first >= need:
                bisect.insort(self._taken, (first, first + need))
                return first
            first = high
        raise CapacityError(
            f"{size} bytes are not free in one piece ({self.free} of {self._size} are "
            "in all); give the agent a larger arena"
        )

    def release(self, first: int) -> None:
        """Give back what begins there."""
        self._taken = [part for part in self._taken if part[0] != first]
