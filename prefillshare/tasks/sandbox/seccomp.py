"""Which system calls an untrusted program may make: a seccomp filter.

Everything that is not listed fails with ENOSYS, so a process keeps to itself: no
sockets, no new processes or threads, no signals to others, no other program, no
shared memory, no file modes, no mounts. The filter is classic BPF over `struct
seccomp_data` (Linux, Documentation/userspace-api/seccomp_filter.rst), written here
because it then needs no library on the machine.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

# Numbers on x86_64 and aarch64, where None says that there is no such call
# (Linux, asm/unistd_64.h and asm-generic/unistd.h).
CALLS: dict[str, tuple[int, int | None]] = {
    "access": (21, None),
    "brk": (12, 214),
    "clock_getres": (229, 114),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "close": (3, 57),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "fcntl": (72, 25),
    "fdatasync": (75, 83),
    "fstat": (5, 80),
    "fsync": (74, 82),
    "ftruncate": (77, 46),
    "futex": (202, 98),
    "getcwd": (79, 17),
    "getdents64": (217, 61),
    "getegid": (108, 177),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getitimer": (36, 102),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "getrandom": (318, 278),
    "getrusage": (98, 165),
    "gettid": (186, 178),
    "gettimeofday": (96, 169),
    "getuid": (102, 174),
    "ioctl": (16, 29),
    "lseek": (8, 62),
    "lstat": (6, None),
    "madvise": (28, 233),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "nanosleep": (35, 101),
    "newfstatat": (262, 79),
    "openat": (257, 56),
    "pipe2": (293, 59),
    "poll": (7, None),
    "ppoll": (271, 73),
    "pread64": (17, 67),
    "pselect6": (270, 72),
    "pwrite64": (18, 68),
    "read": (0, 63),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "readv": (19, 65),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "restart_syscall": (219, 128),
    "rseq": (334, 293),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_getaffinity": (204, 123),
    "sched_yield": (24, 124),
    "select": (23, None),
    "set_robust_list": (273, 99),
    "setitimer": (38, 103),
    "sigaltstack": (131, 132),
    "stat": (4, None),
    "statx": (332, 291),
    "sysinfo": (99, 179),
    "time": (201, None),
    "times": (100, 153),
    "uname": (63, 160),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "write": (1, 64),
    "writev": (20, 66),
}


class Argument(NamedTuple):
    """Argument `number` of a call, under `mask`, must be one of `values`."""

    number: int
    mask: int
    values: tuple[int, ...]


_ANY = 0xFFFFFFFF
_READ_ONLY, _WRITE_ONLY, _READ_WRITE = os.O_RDONLY, os.O_WRONLY, os.O_RDWR
RESTRICTED = {
    # Before version 3, Landlock lets a file be emptied through a read-only opening.
    "openat": Argument(
        2,
        os.O_ACCMODE | os.O_TRUNC,
        (
            _READ_ONLY,
            _WRITE_ONLY,
            _READ_WRITE,
            _WRITE_ONLY | os.O_TRUNC,
            _READ_WRITE | os.O_TRUNC,
        ),
    ),
    # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC; F_SETOWN would
    # have the kernel send signals to other processes.
    "fcntl": Argument(1, _ANY, (0, 1, 2, 3, 4, 1030)),
    # TCGETS, TIOCGWINSZ, FIONBIO, FIONCLEX, FIOCLEX
    "ioctl": Argument(1, _ANY, (0x5401, 0x5413, 0x5421, 0x5450, 0x5451)),
}

# platform.machine() to its column in CALLS and its AUDIT_ARCH.
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_LOAD, _JUMP_IF_EQUAL, _AND, _RETURN = 0x20, 0x15, 0x54, 0x06
_ALLOW, _KILL_PROCESS, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000
_OFFSET_CALL, _OFFSET_ARCH, _OFFSET_ARGUMENTS = 0, 4, 16
_SET_SECCOMP, _MODE_FILTER = 22, 2

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def install() -> None:
    """Filters this process's calls from here on, for good.

    Needs PR_SET_NO_NEW_PRIVS. The process must have a single thread.

    Raises:
        OSError: the kernel has no seccomp filters.
        RuntimeError: the machine is of a kind whose calls are not listed here.
    """
    instructions = instructions_for(platform.machine())
    code = b"".join(struct.pack("=HBBI", *each) for each in instructions)
    program = _Program(len(instructions), code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp filter refused: {os.strerror(number)}")


def instructions_for(machine: str) -> Sequence[Instruction]:
    """The filter for a kind of machine, as `platform.machine()` names it."""
    if machine not in _MACHINES:
        known = ", ".join(_MACHINES)
        raise RuntimeError(f"no list of system calls for {machine}; there is {known}")
    column, architecture = _MACHINES[machine]
    return tuple(_instructions(column, architecture))


def _instructions(column: int, architecture: int) -> Iterator[Instruction]:
    yield _LOAD, 0, 0, _OFFSET_ARCH
    yield _JUMP_IF_EQUAL, 1, 0, architecture
    yield _RETURN, 0, 0, _KILL_PROCESS
    yield _LOAD, 0, 0, _OFFSET_CALL
    for name, numbers in CALLS.items():
        number = numbers[column]
        if number is not None:
            rule = tuple(_rule(name))
            yield _JUMP_IF_EQUAL, 0, len(rule), number
            yield from rule
    yield _RETURN, 0, 0, _FAIL | errno.ENOSYS


def _rule(name: str) -> Iterator[Instruction]:
    """What happens once the call is known to be `name`."""
    restriction = RESTRICTED.get(name)
    if restriction is not None:
        # The low half of an argument: all of these are 32 bits wide, little-endian.
        yield _LOAD, 0, 0, _OFFSET_ARGUMENTS + 8 * restriction.number
        yield _AND, 0, 0, restriction.mask
        for value in restriction.values:
            yield _JUMP_IF_EQUAL, 0, 1, value
            yield _RETURN, 0, 0, _ALLOW
        yield _RETURN, 0, 0, _FAIL | errno.EPERM
    else:
        yield _RETURN, 0, 0, _ALLOW
