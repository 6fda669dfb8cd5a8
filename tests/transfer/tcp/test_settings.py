"""What an engine does by default."""

import pytest

from prefillshare.transfer.tcp.settings import TcpSettings


@pytest.mark.parametrize(
    ("size", "pieces", "sealed", "expected"),
    [
        (1 << 30, 1, False, 4 << 20),
        (1 << 30, 1024, True, 4 << 20),
        (1 << 30, 16384, False, 2 << 20),
        (1 << 30, 16384, True, 1 << 20),
        (400_000_000, 100_000, False, 1 << 20),
        # Each of two streams has a few.
        (16 << 20, 1, False, 2 << 20),
        (1 << 20, 1, False, 1 << 20),
        # Nobody knows yet what is fed.
        (0, 1, False, 1 << 20),
    ],
)
def test_slices_are_large_where_that_pays(
    size: int, pieces: int, sealed: bool, expected: int
) -> None:
    settings = TcpSettings(streams=2)
    assert settings.slices_of(size, pieces, sealed=sealed) == expected


def test_slices_are_as_they_are_set_or_small_for_the_sake_of_a_cap() -> None:
    own = TcpSettings(slice_bytes=12345)
    assert own.slices_of(1 << 30, 1, sealed=False) == 12345
    capped = TcpSettings(rate_gbps=1.0)
    assert capped.slices_of(1 << 30, 1, sealed=False) == 1 << 20
