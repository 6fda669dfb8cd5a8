"""The inputs that fuzzing begins with: well-formed ones of every kind.

    python -m tests.transfer.fuzz.seeds

writes them to `corpus`, beside those that fuzzing has kept.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prefillshare.transfer.base import Grant
from prefillshare.transfer.tcp import frames
from prefillshare.transfer.tcp.dial import STREAM, hello

CORPUS = Path(__file__).parent / "corpus"
ID, SECRET = bytes(16), bytes(32)
GRANT = Grant("memory://1", "ab" * 16, "cd" * 16, "ef" * 32, "read", 4096).to_dict()
# Of programs: what each act is called, then what it takes.
OPEN, ADD, FINISH, EAGER, DONE, FAIL, LOST, HAVE, KNOWN, PING, PONG, HELLO = range(12)
FRAME, RAW, SLICE, _, STREAM_BYTES = range(12, 17)
ALL = b"\0\0\xbf\xff"
READ = bytes([OPEN, 0, 1, 0, 1, ADD, 1, 0]) + ALL
WRITE = bytes([OPEN, 0, 1, 1, 0, ADD, 1, 0]) + b"\0\0\x0f\xff"
LENGTH = b"\x0f\xff"
WHOLE = bytes([SLICE, 9, 1, 0]) + LENGTH + bytes([1, 0])
PROGRAMS = {
    "read": READ + bytes([FINISH, 1, 0xC0, 0, DONE, 1]),
    "write": WRITE + WHOLE + bytes([FINISH, 1, 0x10, 0]),
    "early": WHOLE + WRITE + bytes([FINISH, 1, 0x10, 0, PING]),
    "damaged": WRITE + bytes([SLICE, 9, 1, 0]) + LENGTH + bytes([1, 1]),
    "twice": WRITE + 2 * (bytes([SLICE, 0, 1, 0]) + LENGTH + bytes([1, 0])),
    "eager": bytes([EAGER, 1, 0, 0]) + b"\0\0\0\xff" + b"\0",
    "lost": READ + bytes([SLICE, 9, 7, 0, 0, 9, 1, 0, LOST, 1, HAVE, 1, 1, 1, 1]),
    "unasked": bytes([HAVE, 1, 9, 1, 255, KNOWN, 9]),
    "talk": bytes([PING, PONG, FAIL, 1, 2, 0, 0, 0, 0, HELLO]),
    "forged": bytes([OPEN, 0, 1, 0, 7, OPEN, 0, 2, 1, 6, OPEN, 0, 3, 0, 0]),
    "garbage": bytes([FRAME, 2, 5, 1, 2, 3, 4, 5, RAW, 3, 1, 2, 3])
    + bytes([STREAM_BYTES, 1, 2, 3, 4]),
}


def message(body: Mapping[str, Any], blob: bytes = b"") -> bytes:
    """As the target `host` takes it."""
    return _raw(json.dumps(body, separators=(",", ":")).encode(), blob)


def _raw(text: bytes, blob: bytes = b"") -> bytes:
    return len(text).to_bytes(2) + len(blob).to_bytes(2) + text + blob


def _table(*rows: tuple[int, ...]) -> bytes:
    return np.array(rows, np.int64).tobytes()


def _messages() -> dict[str, bytes]:
    begin = {"id": 2, "do": "begin", "number": 1, "grant": GRANT, "note": 1}
    begin["address"] = GRANT["address"]
    named = {"id": 3, "number": 1}
    return {
        "allocate": message({"id": 1, "do": "allocate", "size": 5})
        + message({"id": 2, "do": "release", "first": 0}),
        "grant": message(
            {"id": 1, "do": "grant", "tag": 1, "access": "read", "lease": 1.5},
            _table((0, 100)),
        )
        + message({"id": 2, "do": "revoke", "grant": "cd" * 16}),
        "connect": message(
            {"id": 1, "do": "connect", "address": "memory://1", "timeout": 1}
        ),
        "begin": message({**begin, "timeout": 2}, b"n" + _table((0, 0, 9))),
        "feed": message({**begin, "timeout": 2}, b"n")
        + message({**named, "do": "add"}, _table((0, 0, 9)))
        + b"".join(message({**named, "do": d}) for d in ("progress", "finish")),
        "cancel": message({"number": 1, "do": "cancel"}) + message({"do": "close"}),
        "unknown": message({"id": 1, "do": "fly"}),
        # What JSON may hold, and a number may not be made of, or answered with.
        "infinite": message({"id": 1, "do": "allocate", "size": float("inf")}),
        "deep": _raw(b"[" * 1500),
        "no_time": message({**begin, "timeout": float("nan")}, b"n"),
    }


def _answers() -> dict[str, bytes]:
    hello = message({"address": "tcp://127.0.0.1:1"})
    # What the first question of the target is told.
    first = {"id": 1, "first": 0}
    return {
        "first": hello + message(first),
        "error": hello + message({"id": 1, "error": {"kind": "CapacityError"}}),
        "odd": hello + message({"id": 1, "first": [], "error": 5}),
        "told": hello + message({"over": 1, "moved": 5}) + message(first),
        "ended": hello + message({"tag": 1, "outcome": "done", "bytes": 5}, b"n"),
        "nonsense": hello + message({"tag": 1, "outcome": "fine", "bytes": 5}),
        "numbers": hello + message({"id": "one"}) + message({"over": None}),
        "silent": b"",
        "nameless": message({}),
    }


def _frames() -> dict[str, bytes]:
    table = frames.packed(np.array([[0, 5]]))
    several: list[frames.Frame] = [
        hello(ID, True),
        frames.Open(1, True, 4096, ID, SECRET, SECRET, b"note"),
        frames.Add(1, table),
        frames.Finish(1, 5),
        frames.Eager(2, ID, SECRET, 1, 4, table + b"note" + b"12345"),
        frames.Fail(1, frames.Code.ENDED, b"why"),
        frames.Have(1, 1, b"\1"),
        *(kind(1) for kind in (frames.Done, frames.Lost, frames.Known)),
        *(kind() for kind in (frames.Ping, frames.Pong, frames.Bye)),
    ]
    found = {}
    for frame in several:
        whole = frame.encode()
        found[f"{type(frame).__name__}".lower()] = whole
        body = whole[16:]
        found[f"{type(frame).__name__}_mended".lower()] = (
            bytes([frame.kind]) + len(body).to_bytes(2) + body
        )
    return found


def _names(*several: tuple[int, bytes]) -> bytes:
    whole = b"".join(bytes([tag, len(value)]) + value for tag, value in several)
    return bytes([0x30, len(whole)]) + whole


def seeds() -> dict[str, dict[str, bytes]]:
    """Inputs by target and name."""
    uri = b"prefillshare://eu/a/host"
    return {
        "frame": _frames(),
        "slice_head": {"first": b"PS\0\0\0\0\0\1\0\0\0\0\0\0\x10\0" + bytes(24)},
        "grant": {
            "grant": json.dumps(GRANT).encode(),
            "more": json.dumps({**GRANT, "more": 1}).encode(),
            "types": json.dumps({**GRANT, "size": True, "access": []}).encode(),
        },
        "identity": {"host": uri, "two": uri + b"\n" + uri, "other": b"https://a/b/c"},
        "certificate": {
            "host": _names((0x86, uri)),
            "two": _names((0x86, uri), (0x86, uri)),
            "dns": _names((0x82, uri)),
            "zero": _names((0x86, uri + b"\0.evil")),
            "bytes": _names((0x86, b"prefillshare://\xff")),
            "empty": b"",
        },
        "greeting": {
            "hello": hello(ID, False).encode(),
            "stream": STREAM.pack(b"PSTD", ID, 1, SECRET),
            "ping": frames.Ping().encode(),
            "http": b"GET / HTTP/1.1\r\n\r\n",
            "tls": b"\x16\x03\x01\0\x05hello",
        },
        "session": PROGRAMS,
        "host": _messages(),
        "answers": _answers(),
    }


def main() -> None:
    """Write them all."""
    for target, inputs in seeds().items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in inputs.items():
            (folder / name).write_bytes(data)
            sys.stdout.write(f"{target}/{name}\n")


if __name__ == "__main__":
    main()
