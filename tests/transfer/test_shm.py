"""Memory that processes share: who may do what, and what is left when one is gone."""

from __future__ import annotations

import json
import mmap
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from prefillshare.errors import (
    ConfigError,
    TransferIntegrityError,
    TransferRefused,
)
from prefillshare.transfer.arena import Arena, Window
from prefillshare.transfer.base import Grant, GrantEnd, Outcome, Region
from prefillshare.transfer.rows import Covered
from prefillshare.transfer.shm import ShmEngine, wire
from tests.transfer.pairs import (
    ARENA,
    SECONDS,
    Ends,
    noise,
    nothing_left_behind,
    until,
)

SIZE = 10_000


@pytest.fixture
def lender() -> Iterator[ShmEngine]:
    with nothing_left_behind():
        engine = ShmEngine(ARENA)
        yield engine
        engine.close()


@pytest.fixture
def region(lender: ShmEngine) -> Region:
    found = lender.register(ARENA.view[123 : 123 + SIZE])
    found.memory[:] = noise(SIZE).data
    return found


@contextmanager
def reading(grant: Grant) -> Iterator[subprocess.Popen[str]]:
    """Another process, which has mapped the grant."""
    command = [sys.executable, "-m", "tests.transfer.reader"]
    process = subprocess.Popen(
        [*command, json.dumps(grant.to_dict())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    with process:
        try:
            assert process.stdout is not None
            assert int(process.stdout.readline()) == noise(SIZE).sum(dtype=int)
            yield process
        finally:
            process.kill()


def tell(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdin is not None
    process.stdin.write(word + "\n")
    process.stdin.flush()


def lend(lender: ShmEngine, region: Region, ends: Ends) -> Grant:
    halves = np.array([[0, 6000], [6000, 4000]])
    return lender.grant(region, halves, "read", ends)


def test_a_reader_that_is_killed_frees_the_grant(
    lender: ShmEngine, region: Region
) -> None:
    ends = Ends()
    with reading(lend(lender, region, ends)) as process:
        assert not ends.told
        process.send_signal(signal.SIGKILL)
        assert ends.one() == GrantEnd(Outcome.EXPIRED)


def test_a_reader_in_another_process_cannot_write(
    lender: ShmEngine, region: Region
) -> None:
    ends = Ends()
    with reading(lend(lender, region, ends)) as process:
        tell(process, "write")
        assert process.wait(SECONDS) == -signal.SIGSEGV
    assert bytes(region.memory) == noise(SIZE).tobytes()
    ends.one()


def test_a_reader_that_releases_is_done(lender: ShmEngine, region: Region) -> None:
    ends = Ends()
    with reading(lend(lender, region, ends)) as process:
        tell(process, "release")
        assert process.wait(SECONDS) == 0
    assert ends.one() == GrantEnd(Outcome.DONE, b"from afar", SIZE)


def test_a_withdrawn_grant_waits_for_its_reader(
    lender: ShmEngine, region: Region
) -> None:
    ends = Ends()
    grant = lend(lender, region, ends)
    link = lender.connect(lender.address)
    with link.map(grant) as mapping:
        assert not mapping.wanted
        lender.revoke(grant.grant_id)
        until(lambda: mapping.wanted)
        # The owner changes nothing before it is told, and it has not been.
        assert not ends.told
        assert bytes(mapping.views[0]) == noise(SIZE).tobytes()
    assert ends.one() == GrantEnd(Outcome.REVOKED)


def test_a_mapping_shows_the_memory_itself_and_is_kept_while_in_use(
    lender: ShmEngine, region: Region
) -> None:
    ends = Ends()
    link = lender.connect(lender.address)
    mapping = link.map(lend(lender, region, ends))
    # Neighbours are one piece.
    (view,) = mapping.views
    region.memory[5] = 0
    assert view[5] == 0 and view.readonly
    with pytest.raises(TypeError, match="read-only"):
        view[5] = 1
    array = np.frombuffer(view, np.uint8)
    with pytest.raises(BufferError):
        mapping.release()
    assert array[5] == 0 and not ends.told
    del array
    mapping.release()
    mapping.release()
    assert ends.one().outcome is Outcome.DONE


def test_used_and_foreign_grants_are_not_mapped(
    lender: ShmEngine, region: Region
) -> None:
    ends = Ends()
    link = lender.connect(lender.address)
    grant = lend(lender, region, ends)
    with link.map(grant):
        pass
    ends.one()
    with pytest.raises(TransferRefused):
        link.map(grant)
    to_write = lender.grant(region, np.array([[0, 9]]), "write", ends)
    with pytest.raises(ValueError, match="for write"):
        link.map(to_write)


@pytest.mark.parametrize("side", ["lender", "peer"])
def test_a_process_of_another_user_is_refused(
    lender: ShmEngine, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = wire.peer_uid

    def uid(sock: socket.socket) -> int:
        # The lender's socket is the one with a name.
        named = bool(sock.getsockname())
        return true(sock) + (named == (side == "lender"))

    monkeypatch.setattr(wire, "peer_uid", uid)
    with pytest.raises(TransferRefused, match="user"):
        lender.connect(lender.address)


def test_credentials_are_those_of_the_kernel() -> None:
    with nothing_left_behind():
        ends = socket.socketpair()
        assert wire.peer_uid(ends[0]) == os.getuid()
        for each in ends:
            each.close()


def test_a_writer_that_lies_writes_no_verified_byte_again(
    lender: ShmEngine, region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = Ends()
    link = lender.connect(lender.address)
    source = lender.register(memoryview(bytearray(SIZE)))
    grant = lender.grant(region, np.array([[0, 1000]]), "write", ends)
    transfer = link.write(grant, source, timeout=SECONDS)
    # This side no longer looks.
    monkeypatch.setattr(transfer, "_covered", Covered())
    transfer.add(np.array([[0, 0, 600]]))
    until(lambda: not any(region.memory[:600]))
    monkeypatch.setattr(transfer, "_covered", Covered())
    source.memory[:] = bytes([255]) * SIZE
    transfer.add(np.array([[0, 599, 10]]))
    with pytest.raises(TransferIntegrityError, match="overlap at byte 599"):
        transfer.wait()
    assert not any(region.memory[:600]) and region.memory[600] != 255
    assert not ends.told


def test_memory_to_read_must_lie_in_the_arena(lender: ShmEngine) -> None:
    elsewhere = lender.register(memoryview(bytearray(10)))
    with pytest.raises(ValueError, match="arena"):
        lender.grant(elsewhere, np.array([[0, 10]]), "read", Ends())


def test_an_address_is_taken_once_and_left_clean(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    address = f"shm://{path}"
    with nothing_left_behind():
        first = ShmEngine(address=address)
        with pytest.raises(ConfigError, match="in use"):
            ShmEngine(address=address)
        first.close()
        assert not path.exists()
        # What a killed process leaves is in nobody's way.
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
        second = ShmEngine(address=address)
        second.connect(address).close()
        second.close()


def test_an_arena_is_sealed() -> None:
    with nothing_left_behind():
        arena = Arena(5000, writers=True)
        other = Arena.attach(arena.descriptor)
        other.view[4999] = 7
        assert arena.view[4999] == 7
        other.close()
        arena.seal()
        with pytest.raises(PermissionError):
            Arena.attach(arena.descriptor)
        with pytest.raises(PermissionError):
            os.ftruncate(arena.descriptor, 1)
        descriptor = arena.reader()
        with pytest.raises(PermissionError):
            mmap.mmap(descriptor, 5000)
        window = Window(descriptor, 4999, 5000)
        assert bytes(window.view) == b"\7"
        window.close()
        with pytest.raises(TransferIntegrityError, match="5001 of an arena of 5000"):
            Window(descriptor, 0, 5001)
        os.close(descriptor)
        arena.close()


def test_what_is_no_arena_is_not_mapped(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(5000))
    loose = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    os.ftruncate(loose, 5000)
    with path.open("rb") as file:
        with pytest.raises(TransferIntegrityError, match="not shared memory"):
            Window(file.fileno(), 0, 10)
    # It could be cut short under its reader.
    with pytest.raises(TransferIntegrityError, match="not fixed"):
        Window(loose, 0, 10)
    os.close(loose)
