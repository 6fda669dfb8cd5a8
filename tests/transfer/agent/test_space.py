"""Parts of an arena: disjoint, and of one byte at least."""

from __future__ import annotations

import pytest

from prefillshare.errors import CapacityError
from prefillshare.transfer.agent.space import Space


def test_parts_are_disjoint_and_come_back() -> None:
    space = Space(3 * 4096)
    first, second = space.allocate(1), space.allocate(4097)
    assert {first, second} == {0, 4096} and space.free == 0
    with pytest.raises(CapacityError, match="1 bytes are not free"):
        space.allocate(1)
    space.release(first)
    assert space.allocate(4096) == first


@pytest.mark.parametrize("size", [0, -1, -4096])
def test_a_part_of_nothing_is_refused(size: int) -> None:
    space = Space(4096)
    with pytest.raises(ValueError, match="one or more"):
        space.allocate(size)
    # It would begin where another does, and releasing one would free both.
    assert space.allocate(1) == 0
