"""The engine over files, and fio beside it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from prefillshare.bench.transfer.files import run_files
from prefillshare.bench.transfer.fio import command, find_fio, found_in, run_fio
from prefillshare.bench.transfer.programs import NotRun
from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.bench.transfer.specs import Fio

FIO = Fio(name="x", depth=2, block_bytes=1 << 16)


@pytest.fixture
def settings(tmp_path: Path) -> TransferBenchSettings:
    return TransferBenchSettings(
        total_bytes=1 << 22, small_blocks=16, folder=tmp_path, timeout_seconds=60
    )


def test_a_file_is_written_and_read_and_every_byte_compared(
    settings: TransferBenchSettings, tmp_path: Path
) -> None:
    write, read = run_files(settings, 0)
    assert (write.direction, read.direction) == ("write", "read")
    for found in (write, read):
        assert found.verified and found.gbps and found.cpu_seconds_per_gb
        assert found.direct is _direct(tmp_path)
    assert list(tmp_path.iterdir()) == []


def _direct(folder: Path) -> bool:
    try:
        os.close(os.open(folder / "probe", os.O_CREAT | os.O_RDWR | os.O_DIRECT))
    except OSError:
        return False
    finally:
        (folder / "probe").unlink()
    return True


def test_a_disk_that_is_too_full_is_said(settings: TransferBenchSettings) -> None:
    large = settings.model_copy(update={"total_bytes": 1 << 60})
    with pytest.raises(NotRun, match=r"bytes free, fewer than 2,305,843,009"):
        run_files(large, 0)


@pytest.mark.skipif(
    shutil.which("fio") is None and "CI" not in os.environ,
    reason="fio is not installed; on Debian: apt-get install fio",
)
def test_fio_writes_and_reads_as_much(
    settings: TransferBenchSettings, tmp_path: Path
) -> None:
    write, read = run_fio(settings, FIO, 0)
    assert (write.direction, read.direction) == ("write", "read")
    assert write.gbps and read.gbps and write.direct is read.direct is _direct(tmp_path)
    assert list(tmp_path.iterdir()) == []
    # What fio does not take is said, too.
    wrong = settings.model_copy(update={"total_bytes": 1 << 10})
    with pytest.raises(NotRun, match="fio ended with status"):
        run_fio(wrong, FIO, 0)


def test_fio_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NotRun, match="apt-get install fio"):
        find_fio()


def test_its_rate_has_the_sync_in_it() -> None:
    """Lines of fio 3.33's output."""
    written = {"io_bytes": 10**9, "bw_bytes": 7, "runtime": 1500}
    job = {"job_runtime": 2000, "usr_cpu": 5.0, "sys_cpu": 15.0, "write": written}
    text = "note: both iodepth >= 1 and synchronous I/O\n" + json.dumps({"jobs": [job]})
    found = found_in(text, "write", direct=False)
    assert (found.gbps, found.direct) == (4.0, False)
    assert found.cpu_seconds_per_gb == pytest.approx(0.4)


def test_only_what_is_written_is_synced() -> None:
    written = command("f", 5, FIO, "write", direct=True)
    assert {"--end_fsync=1", "--direct=1", "--iodepth=2", "--bs=65536"} <= set(written)
    assert "--end_fsync=0" in command("f", 5, FIO, "read", direct=False)
