"""Two workers: within this process over a stand-in, and in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefillshare.bench.transfer.engines import make_engine
from prefillshare.bench.transfer.pair import near
from prefillshare.bench.transfer.processes import Child, Facts, neighbour, started
from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.bench.transfer.shapes import buffer, plan
from prefillshare.bench.transfer.specs import BULK, Bare, Ours
from prefillshare.bench.transfer.streams import groups, shares
from prefillshare.errors import ConfigError, PrefillShareError, TransferIntegrityError
from prefillshare.transfer.memory import Fault
from tests.bench.transfer.conftest import InProcess


def test_all_shapes_and_loads_of_ours_are_measured_and_verified(
    small: TransferBenchSettings, in_process: InProcess
) -> None:
    found = in_process.run(small, Ours(name="x"), 0)
    shapes = [(one.shape, one.case) for one in found]
    assert shapes == [
        ("contiguous", None),
        ("scattered", None),
        ("small", None),
        ("grouped", None),
        ("latency", "idle"),
        ("latency", "caller"),
    ]
    assert all(one.verified for one in found)
    for one in found[:4]:
        assert one.gbps is not None and one.gbps > 0
        assert one.cpu_seconds_per_gb is not None and one.cpu_seconds_per_gb > 0
        assert one.extra_bytes is not None and one.extra_bytes >= 0
    for one in found[4:]:
        assert one.p50_us is not None and one.p99_us is not None
        assert 0 < one.p50_us <= one.p99_us


def test_memory_is_cleared_between_the_warm_up_and_the_clock(
    small: TransferBenchSettings, in_process: InProcess
) -> None:
    in_process.run(small, Ours(name="x"), 0)
    assert in_process.receiver is not None
    orders = in_process.receiver.orders[2:7]
    assert orders == ["arrange", "clear", "usage", "usage", "check"]


def test_a_transfer_that_fails_ends_the_measurement(
    small: TransferBenchSettings, in_process: InProcess
) -> None:
    in_process.network.script(None, Fault.CORRUPT)
    with pytest.raises(TransferIntegrityError):
        in_process.run(small, Ours(name="x"), 0)


@pytest.mark.parametrize(
    "spec",
    [
        Ours(name="checksum"),
        Ours(name="own settings", streams=1, slice_bytes=8192),
        Ours(name="encrypted", encrypted=True),
        Ours(name="agent", agent=True),
        Bare(name="one"),
        Bare(name="three", streams=3, call_bytes=5000),
        Bare(name="two", streams=2, buffer_bytes=1 << 16),
        Bare(name="handed", streams=2, handed=True),
        Bare(name="ssl", streams=2, call_bytes=100_000, tls=True),
    ],
    ids=lambda spec: spec.name,
)
def test_processes_deliver_every_byte(spec: Ours | Bare) -> None:
    """Enough of them for all streams."""
    settings = TransferBenchSettings(
        total_bytes=1 << 20,
        small_blocks=192,
        latency_samples=5,
        loads=["idle", "neighbour"],
        timeout_seconds=60,
    )
    found = near(settings, spec, 0)
    assert len(found) == 6 and all(one.verified for one in found)


def test_a_contestant_takes_part_in_its_shapes_alone(
    small: TransferBenchSettings,
) -> None:
    found = near(small, Bare(name="x", shapes=["grouped", "delayed"]), 0)
    assert [one.shape for one in found] == ["grouped"]


def test_shares_hold_all_bytes_once() -> None:
    settings = TransferBenchSettings(total_bytes=1 << 20, small_blocks=192)
    for shape in BULK:
        ranges = plan(settings, shape).batch()[:, 1:]
        parts = shares(ranges, 3)
        assert len(parts) == 3
        assert sum(int(part[:, 1].sum()) for part in parts) == int(ranges[:, 1].sum())
        starts = sorted(at for part in parts for at in part[:, 0].tolist())
        assert len(set(starts)) == len(starts)
    assert len(shares(plan(settings, "latency").batch()[:, 1:], 3)) == 1


def test_a_call_moves_no_more_than_it_may() -> None:
    memory = buffer(1 << 16)
    settings = TransferBenchSettings(
        total_bytes=1 << 16,
        small_blocks=16,
        scattered_block_bytes=8,
        shapes=["scattered"],
    )
    single = groups(memory, plan(settings, "contiguous").batch()[:, 1:], 5000)
    assert all(len(group) == 1 and len(group[0]) <= 5000 for group in single)
    tiny = groups(memory, plan(settings, "scattered").batch()[:, 1:], 1 << 20)
    assert [len(group) for group in tiny] == [1024] * 8
    assert sum(len(view) for group in tiny for view in group) == 1 << 16


def test_what_a_worker_cannot_do_is_told(
    tmp_path: Path,
) -> None:
    with (tmp_path / "errors").open("w+", encoding="utf-8") as errors:
        child = Child("sender", errors)
        rest: Facts = {"timeout": 1, "certificates": None, "routes": {}}
        try:
            with pytest.raises(
                PrefillShareError, match="sender could not begin: Valid"
            ):
                child("begin", spec={"name": "x", "nothing": 1}, size=8, **rest)
            child("begin", spec=Bare(name="x").model_dump(), size=8, **rest)
            with pytest.raises(
                PrefillShareError, match="could not connect: Connection"
            ):
                child("connect", address="tcp://127.0.0.1:1")
        finally:
            child.close()


def test_the_neighbour_runs_before_the_context_and_ends_with_it() -> None:
    with neighbour():
        pass


def test_a_process_that_does_not_start_is_said() -> None:
    with (
        pytest.raises(PrefillShareError, match=r"linkemu nowhere did not start"),
        started(["prefillshare.transfer.linkemu", "nowhere"]),
    ):
        pass


def test_encryption_without_certificates_is_refused() -> None:
    with pytest.raises(ConfigError, match="encryption needs certificates"):
        make_engine(Ours(name="x", encrypted=True))
