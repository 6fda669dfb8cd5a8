"""Vectored calls: every byte once and in order, at no cost of Python's for a piece."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefillshare.errors import TransferBroken
from prefillshare.transfer.tcp import sockets
from prefillshare.transfer.tcp.sockets import receive_all, send_all

PARTS = st.lists(st.binary(max_size=9), max_size=2500)
COUNTS = st.lists(st.integers(1, 4000), min_size=1, max_size=50)


class Scripted:
    """A socket that moves so many bytes a call, in turn; then as many as it may."""

    def __init__(self, counts: Sequence[int], data: bytes = b"") -> None:
        self._counts: Iterator[int] = iter(counts)
        self.calls: list[int] = []
        self.low = 1
        self.marks: list[int] = []
        self.data = bytearray(data)

    def sendmsg(self, parts: Sequence[memoryview | bytes]) -> int:
        whole = b"".join(parts)
        count = self._next(len(whole), len(parts))
        self.data += whole[:count]
        return count

    def recvmsg_into(
        self, views: Sequence[memoryview], _: int, flags: int
    ) -> tuple[int, list[Any], int, None]:
        assert flags == socket.MSG_WAITALL
        # The kernel wakes nobody for less than that, be it the last there is.
        assert self.low == 1 or len(self.data) >= sum(map(len, views)) + self.low
        total = min(sum(map(len, views)), len(self.data))
        left = count = self._next(total, len(views)) if total else 0
        for view in views:
            size = min(left, len(view))
            view[:size] = self.data[:size]
            del self.data[:size]
            left -= size
        return count, [], 0, None

    def setsockopt(self, level: int, option: int, value: int) -> None:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        self.low = value
        self.marks.append(value)

    def _next(self, most: int, pieces: int) -> int:
        # Linux takes 1024 a call.
        assert 0 < pieces <= 1024
        self.calls.append(pieces)
        return min(most, next(self._counts, most))


@contextmanager
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
        with near, far:
            yield near, far


def as_socket(scripted: Scripted) -> socket.socket:
    return cast(socket.socket, scripted)


@given(PARTS, COUNTS)
def test_all_that_is_sent_leaves_in_order(
    parts: list[bytes], counts: list[int]
) -> None:
    sock = Scripted(counts)
    send_all(as_socket(sock), [memoryview(part) for part in parts])
    assert sock.data == b"".join(parts)


@given(PARTS, COUNTS)
def test_all_that_arrives_is_put_in_order(
    parts: list[bytes], counts: list[int]
) -> None:
    # Views of nothing are not asked for.
    targets = [bytearray(len(part)) for part in parts if part]
    sock = Scripted(counts, b"".join(parts))
    receive_all(as_socket(sock), [memoryview(target) for target in targets])
    assert b"".join(targets) == b"".join(parts) and not sock.data


@given(PARTS, COUNTS)
def test_more_is_waited_for_at_a_time_while_it_is_sure_to_come(
    parts: list[bytes], counts: list[int]
) -> None:
    targets = [bytearray(len(part)) for part in parts if part]
    sock = Scripted(counts, b"".join(parts))
    with patch.object(sockets, "_WORTH_WAKING", 100):
        receive_all(as_socket(sock), [memoryview(target) for target in targets])
    whole = b"".join(parts)
    assert b"".join(targets) == whole and not sock.data
    assert sock.marks == ([100, 1] if len(whole) >= 200 else [])


@pytest.mark.parametrize("least", [1, 1000])
def test_the_kernel_hands_over_all_of_a_slice_and_nothing_after_it(least: int) -> None:
    size = 5 * sockets._WORTH_WAKING + 12345
    sent = np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes()
    with tcp_pair() as (near, far), ThreadPoolExecutor() as pool:
        sending = pool.submit(near.sendall, sent + b"the next one")
        targets = [bytearray(n) for n in (least, 300_000, size - 300_000 - least)]
        receive_all(far, [memoryview(target) for target in targets])
        assert b"".join(targets) == sent
        # A short one does not wait for more than it asks for.
        head = bytearray(12)
        receive_all(far, [memoryview(head)])
        assert head == b"the next one"
        sending.result()


def test_an_end_within_what_is_received_is_told() -> None:
    sock = Scripted([], b"abc")
    with pytest.raises(TransferBroken, match="within a transfer"):
        receive_all(as_socket(sock), [memoryview(bytearray(4))])


def lines_of(call: Callable[[], None]) -> int:
    """How many lines of the module's run."""
    count, module = 0, sys.modules[send_all.__module__].__file__

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename != module:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("counts", [[], [3000, 10, 77]])
def test_pieces_cost_no_statement_each(counts: list[int]) -> None:
    pieces = [memoryview(bytearray(4)) for _ in range(5000)]
    sent = as_socket(Scripted(counts))
    received = as_socket(Scripted(counts, bytes(20_000)))
    assert lines_of(lambda: send_all(sent, pieces)) < 100
    assert lines_of(lambda: receive_all(received, pieces)) < 100
