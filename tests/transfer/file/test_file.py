"""Files: what is direct, what is verified, and what is there afterwards."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefillshare.errors import (
    TransferIntegrityError,
)
from tests.transfer.file.disk import PAGE, SIZE, SLICE, WHOLE, Disk
from tests.transfer.pairs import Ends, noise

Call = Callable[[int, Sequence[memoryview], int], int]


def test_what_is_aligned_passes_the_page_cache_by(disk: Disk) -> None:
    file = disk.open()
    try:
        os.close(os.open(disk.path, os.O_RDWR | os.O_DIRECT))
    except OSError:
        pytest.skip("this file system has no direct I/O")
    disk.memory[:] = data = noise(SIZE)
    disk.write(file, WHOLE)
    assert file.stored.direct_bytes == SIZE
    assert (disk.read(file, WHOLE) == data).all()
    assert file.stored.direct_bytes == 2 * SIZE
    # One byte off in memory, and it goes through the cache.
    disk.read(file, (1, 0, SLICE))
    assert file.stored.direct_bytes == 2 * SIZE


@pytest.mark.parametrize("when", ["open", "call"])
def test_without_direct_io_it_works_all_the_same(
    disk: Disk, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, put = os.open, os.pwritev
    direct = set[int]()

    def refuse_open(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT and when == "open":
            raise OSError(errno.EINVAL, "no direct I/O")
        found = opened(path, flags, mode)
        if flags & os.O_DIRECT:
            direct.add(found)
        return found

    def refuse_call(descriptor: int, views: Sequence[memoryview], offset: int) -> int:
        if descriptor in direct:
            raise OSError(errno.EINVAL, "no direct I/O after all")
        return put(descriptor, views, offset)

    monkeypatch.setattr(os, "open", refuse_open)
    monkeypatch.setattr(os, "pwritev", refuse_call)
    file = disk.open()
    disk.memory[:] = data = noise(SIZE)
    disk.write(file, WHOLE)
    assert not file.stored.direct_bytes
    assert (disk.read(file, WHOLE) == data).all()


def test_calls_that_move_less_than_asked_go_on(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(call: Call) -> Call:
        return lambda where, views, at: call(where, [views[0][:1000]], at)

    monkeypatch.setattr(os, "pwritev", short(os.pwritev))
    monkeypatch.setattr(os, "preadv", short(os.preadv))
    file = disk.open()
    disk.memory[:] = data = noise(SIZE)
    disk.write(file, WHOLE)
    assert (
        disk.read(file, (0, 0, SLICE), (SLICE, SLICE, 777))
        == np.r_[data[: SLICE + 777], np.zeros(SIZE - SLICE - 777, np.uint8)]
    ).all()


def test_neighbours_in_the_file_are_one_call(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    put = os.pwritev

    def count(where: int, views: Sequence[memoryview], offset: int) -> int:
        calls.append(len(views))
        return put(where, views, offset)

    monkeypatch.setattr(os, "pwritev", count)
    blocks = np.random.default_rng(0).permutation(SIZE // PAGE).tolist()
    rows = [(near * PAGE, far * PAGE, PAGE) for far, near in enumerate(blocks)]
    disk.write(disk.open(), *rows)
    assert sum(calls) >= len(rows) - 10 and len(calls) == 1


def test_a_changed_byte_is_found(disk: Disk) -> None:
    file = disk.open()
    disk.memory[:] = noise(SIZE)
    disk.write(file, WHOLE)
    disk.flip(SLICE + 5)
    for rows in [WHOLE, (0, SLICE, SLICE), (7, SLICE + 900, 50)]:
        with pytest.raises(TransferIntegrityError, match=f"bytes at {SLICE} "):
            disk.read(file, rows)
    disk.read(file, (0, 0, SLICE), (SLICE, 2 * SLICE, SIZE - 2 * SLICE))


def test_a_changed_byte_is_not_given_a_new_checksum(disk: Disk) -> None:
    file = disk.open()
    disk.write(file, WHOLE)
    disk.flip(5)
    with pytest.raises(TransferIntegrityError, match="bytes at 0 "):
        disk.write(file, (0, 100, 50))
    disk.write(file, (0, 0, SLICE))
    disk.read(file, WHOLE)


def test_what_was_not_written_is_not_read(disk: Disk) -> None:
    file = disk.open()
    disk.write(file, (0, 0, 1000), (0, 1001, 1000))
    disk.read(file, (0, 0, 1000), (1000, 1001, 1000))
    with pytest.raises(TransferIntegrityError, match="never written"):
        disk.read(file, (0, 0, 2001))


def test_only_files_are_granted(disk: Disk) -> None:
    with pytest.raises(ValueError, match="grants files"):
        disk.engine.grant(disk.region, np.array([[0, 1]]), "read", Ends())


spans = st.tuples(st.integers(0, 999), st.integers(1, 400)).map(
    lambda pair: (pair[0], min(pair[1], 1000 - pair[0]))
)


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(spans, min_size=1, max_size=6), spans)
def test_writes_over_writes_read_as_the_last(
    tmp_path: Path, writes: list[tuple[int, int]], asked: tuple[int, int]
) -> None:
    for path in tmp_path.iterdir():
        path.unlink()
    disk = Disk(tmp_path)
    disk.engine.slice_bytes = 64
    file = disk.open(1000)
    model = np.zeros(1000, np.uint8)
    for seed, (offset, length) in enumerate(writes):
        disk.memory[:1000] = data = noise(1000, seed)
        disk.write(file, (0, offset, length))
        model[offset : offset + length] = data[:length]
    offset, length = asked
    try:
        if model[offset : offset + length].all():
            found = disk.read(file, (0, offset, length))[:length]
            assert (found == model[offset : offset + length]).all()
        else:
            with pytest.raises(TransferIntegrityError, match="never written"):
                disk.read(file, (0, offset, length))
    finally:
        disk.engine.close()
