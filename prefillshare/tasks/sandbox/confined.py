"""The inside of the sandbox: gives up every right, then runs one program.

`runner` starts this in an interpreter of its own, with a request on standard input:
one JSON object with `program`, `token`, `result` (a file descriptor), `scratch`,
`parent` (the runner's process) and `limits`. The answers on `result` are lines:
`ready TOKEN` once nothing is permitted any more, `passed TOKEN` once the program ran
to its end, or `refused TOKEN REASON`.

It imports the standard library alone: it starts once per program.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import sysconfig
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefillshare.tasks.sandbox import landlock, seccomp

_SET_PARENT_DEATH_SIGNAL, _SET_NO_NEW_PRIVILEGES = 1, 38
_CAPABILITIES_VERSION_3 = 0x20080522
_SYSTEM_FILES = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/etc/ld.so.cache",
    "/dev/null",
    "/dev/urandom",
)


def main() -> None:
    """Serves the request on standard input; does not return if the program passes."""
    # What `runner` put there so that this module was found.
    sys.path.pop(0)
    del sys.argv[1:]
    request = json.load(sys.stdin)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    result, token = int(request["result"]), str(request["token"])
    try:
        _end_with(request["parent"])
        confine(Path(request["scratch"]), request["limits"])
    except (OSError, RuntimeError) as error:
        os.write(result, f"refused {token} {error}\n".encode())
        return
    os.write(result, f"ready {token}\n".encode())
    _execute(request["program"], result, f"passed {token}\n".encode())


def confine(scratch: Path, limits: Mapping[str, Any]) -> None:
    """Gives up what an untrusted program must not have, in this order for a reason.

    The file rules come before the filter, which does not know their calls; both need
    the promise never to gain privileges.

    Raises:
        OSError: the kernel refuses one of the protections.
        RuntimeError: the filter has no list for this kind of machine.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _limit(limits)
    # A privileged process could raise its limits again.
    header = struct.pack("=Ii", _CAPABILITIES_VERSION_3, 0)
    _checked(libc.capset(header, bytes(24)))
    landlock.restrict(_readable(), scratch)
    seccomp.install()


def _end_with(parent: int) -> None:
    """Has the kernel kill this process when the runner dies, however it dies."""
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0))
    # It may have died before it could be waited for.
    if os.getppid() != parent:
        raise RuntimeError("the process that wanted the verdict is gone")


def _checked(status: int) -> None:
    if status != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _limit(limits: Mapping[str, Any]) -> None:
    cpu = limits["cpu_seconds"]
    for kind, soft, hard in (
        # A signal that names the reason first; one that cannot be caught after it.
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_AS, limits["memory_bytes"], limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"], limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"], limits["open_files"]),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        resource.setrlimit(kind, (soft, hard))


def _readable() -> list[Path]:
    """The interpreter, its libraries and what the loader needs; no one's data."""
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    python = {sysconfig.get_path(kind) for kind in kinds}
    return [Path(each) for each in (*python, f"{sys.base_prefix}/lib", *_SYSTEM_FILES)]


def _execute(program: str, result: int, passed: bytes) -> None:
    # The program may replace what stands in the modules.
    write, leave = os.write, os._exit
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    exec(compile(program, "<program>", "exec"), module.__dict__)
    write(result, passed)
    leave(0)
