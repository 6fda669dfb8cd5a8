"""What the filter answers, by an interpreter of BPF written for this test."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from prefillshare.tasks.sandbox.seccomp import CALLS, instructions_for

ALLOW, KILL = 0x7FFF0000, 0x80000000
NO_SUCH_CALL, REFUSED = 0x50000 | errno.ENOSYS, 0x50000 | errno.EPERM
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def answer(machine: str, call: int, *arguments: int, architecture: int = 0) -> int:
    """What the filter for `machine` returns for a call."""
    architecture = architecture or ARCHITECTURES[machine]
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    data = struct.pack("<IIQ6Q", call, architecture, 0, *padded)
    instructions = instructions_for(machine)
    accumulator = at = 0
    while True:
        code, if_true, if_false, operand = instructions[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif code == 0x54:
            accumulator &= operand
        elif code == 0x15:
            at += if_true if accumulator == operand else if_false
        else:
            assert code == 0x06
            return operand


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_only_listed_calls_are_allowed(machine: str) -> None:
    column = list(ARCHITECTURES).index(machine)
    listed = {numbers[column] for numbers in CALLS.values()}
    for call in range(600):
        found = answer(machine, call, 0, 0x5401, 0)
        if call == CALLS["fcntl"][column]:
            assert found == REFUSED
        else:
            assert found == (ALLOW if call in listed else NO_SUCH_CALL)
    # The calls of the x32 interface have this bit.
    assert answer(machine, 0x40000000) == NO_SUCH_CALL


def test_another_architecture_is_killed() -> None:
    assert answer("x86_64", 0, architecture=0x40000003) == KILL


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_arguments_are_looked_at(machine: str) -> None:
    column = list(ARCHITECTURES).index(machine)
    opening, control = CALLS["openat"][column], CALLS["fcntl"][column]
    assert opening is not None and control is not None
    for flags, expected in (
        (os.O_RDONLY | os.O_CLOEXEC, ALLOW),
        (os.O_WRONLY | os.O_CREAT | os.O_TRUNC, ALLOW),
        (os.O_RDONLY | os.O_TRUNC, REFUSED),
        (os.O_ACCMODE | os.O_TRUNC, REFUSED),
    ):
        assert answer(machine, opening, 0, 0, flags) == expected
    assert answer(machine, control, 0, 3) == ALLOW
    assert answer(machine, control, 0, 8) == REFUSED
