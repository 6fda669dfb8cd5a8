"""What a disk, or a hand on its files, can do wrong."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

import numpy as np
import pytest

from prefillshare.errors import (
    TransferBroken,
    TransferError,
    TransferIntegrityError,
)
from tests.transfer.file.disk import SIZE, SLICE, WHOLE, Disk
from tests.transfer.pairs import SECONDS, Ends, noise


def test_a_full_disk_is_said_and_a_second_try_works(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = disk.open()
    disk.memory[:] = old = noise(SIZE, 1)
    disk.write(file, WHOLE)

    def full(where: int, views: Sequence[memoryview], offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    disk.memory[:] = new = noise(SIZE, 2)
    ends = Ends()
    grant = disk.engine.grant(file, np.array([[0, SIZE]]), "write", ends)
    batch = np.array([[0, 100, 50_000]])
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", full)
        with pytest.raises(TransferError, match="blocks: no space left; free some"):
            disk.link.write(grant, disk.region, batch, timeout=SECONDS).wait()
    assert not ends.told
    # What stood there may be half overwritten; what is beside it is as it was.
    with pytest.raises(TransferIntegrityError, match="never written"):
        disk.read(file, (0, 99, 2))
    assert (disk.read(file, (0, 50_100, 1000))[:1000] == old[50_100:51_100]).all()
    disk.memory[:] = new
    disk.link.write(grant, disk.region, batch, timeout=SECONDS).wait()
    expected = np.r_[old[:100], new[:50_000], old[50_100:]]
    assert (disk.read(file, WHOLE) == expected).all()
    ends.one()


def test_a_disk_too_small_is_said_at_once(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(where: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(TransferError, match="no space left"):
        disk.open()
    assert list(disk.folder.iterdir()) == []


def test_another_failure_of_the_disk_breaks_the_transfer(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = disk.open()

    def fail(where: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(TransferBroken, match="Input/output"):
        disk.write(file, WHOLE)
    # It was never on the disk for sure.
    with pytest.raises(TransferIntegrityError, match="never written"):
        disk.read(file, (0, 0, 1))


def test_a_truncated_file_is_found_when_read_and_when_opened(disk: Disk) -> None:
    file = disk.open()
    disk.write(file, WHOLE)
    os.truncate(disk.path, SLICE)
    disk.read(file, (0, 0, SLICE))
    with pytest.raises(TransferIntegrityError, match=f"ends at byte {SLICE}"):
        disk.read(file, WHOLE)
    disk.engine.deregister(file)
    with pytest.raises(TransferIntegrityError, match="truncated"):
        disk.open(None)


def test_checksums_must_be_there_and_whole(disk: Disk) -> None:
    disk.engine.deregister(disk.open())
    beside = disk.path.with_name("blocks.sums")
    beside.write_bytes(beside.read_bytes()[:-1] + b"x")
    with pytest.raises(TransferIntegrityError, match="damaged"):
        disk.open()
    beside.unlink()
    with pytest.raises(TransferIntegrityError, match="missing"):
        disk.open()
    disk.path.unlink()
    with pytest.raises(TransferError, match="pass a size"):
        disk.open(None)


def test_what_was_done_is_there_for_the_next_process(disk: Disk) -> None:
    file = disk.open()
    disk.memory[:] = data = noise(SIZE)
    disk.write(file, WHOLE)
    with pytest.raises(TransferError, match="open elsewhere"):
        disk.open()
    disk.engine.deregister(file)
    again = disk.engine.open(disk.path, readonly=True)
    other = disk.engine.open(disk.path, readonly=True)
    assert (disk.read(again, WHOLE) == data).all()
    with pytest.raises(TransferError, match="read only"):
        disk.write(other, WHOLE)
