"""Which files a process may open: Landlock rules.

Linux 5.13 or newer, Documentation/userspace-api/landlock.rst. What is not granted is
refused, whoever the process runs as.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

# The same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1

_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_REMOVE_FILE, _MAKE_FILE = 1 << 5, 1 << 8
_TRUNCATE = 1 << 14
# Every right of the first version; then those that versions 2, 3 and 5 added.
_FIRST_RIGHTS = (1 << 13) - 1
_ADDED_RIGHTS = ((2, 1 << 13), (3, _TRUNCATE), (5, 1 << 15))
_READ = _READ_FILE | _READ_DIR
# No folders or links: a flat folder is cheap to measure and to clear.
_SCRATCH = _READ | _WRITE_FILE | _REMOVE_FILE | _MAKE_FILE | _TRUNCATE


class _Beneath(ctypes.Structure):
    """`struct landlock_path_beneath_attr`."""

    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def restrict(readable: Iterable[Path], scratch: Path) -> None:
    """From here on this process reads only below `readable` and writes in `scratch`.

    Of `readable`, what does not exist is left out. Needs PR_SET_NO_NEW_PRIVS.

    Raises:
        OSError: the kernel has no Landlock or has it switched off.
    """
    version = _call("Landlock", _CREATE_RULESET, None, 0, _VERSION)
    handled = _FIRST_RIGHTS
    for since, right in _ADDED_RIGHTS:
        handled |= right if version >= since else 0
    attribute = ctypes.c_uint64(handled)
    ruleset = _call(
        "a Landlock ruleset",
        _CREATE_RULESET,
        ctypes.byref(attribute),
        ctypes.sizeof(attribute),
        0,
    )
    try:
        for path in readable:
            if path.exists():
                _grant(ruleset, path, _READ if path.is_dir() else _READ_FILE)
        _grant(ruleset, scratch, _SCRATCH & handled)
        _call("restricting itself", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _grant(ruleset: int, path: Path, rights: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = _Beneath(rights, parent)
        what = f"a Landlock rule for {path}"
        _call(what, _ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(parent)


def _call(what: str, number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    words = [
        ctypes.c_long(each) if isinstance(each, int) else each for each in arguments
    ]
    result: int = libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what} is refused by the kernel: {os.strerror(code)}")
    return result
