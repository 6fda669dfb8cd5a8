"""What a reader has to know to judge the figures of the transfer benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Config = Mapping[str, Any]


def how(part: str, config: Config) -> str:
    """What a part of the page measures, where its tables do not say so."""
    return _HOW[part](config) + "\n" if part in _HOW else ""


def _small(config: Config) -> str:
    return (
        f"{config['small_blocks']:,} blocks of {config['small_block_bytes']:,} bytes "
        "in one batch (small), and the same number of bytes in blocks of "
        f"{config['scattered_block_bytes']:,} (grouped). The time of the first is to "
        "be under twice that of the second."
    )


def _encryption(config: Config) -> str:
    return (
        "AES-256-GCM of the library that the engine uses, on one core with nothing "
        "else to do: slices are sealed out of memory into a staging buffer, and opened "
        "out of it into memory, as the engine does. The engine also sends and receives "
        "on the same cores. Python's `ssl` sockets are the other way to encrypt."
    )


def _cpu(config: Config) -> str:
    return "Of the figures above, both processes together, with agents and all threads."


def _delayed(config: Config) -> str:
    delayed = config["delayed"]
    trip = delayed["round_trip"]
    return (
        "Through the link emulator, a process of its own on the same cores: "
        f"{trip:g} s of round trip ({trip / 2:g} s each way), one piece of what the "
        f"rate carries in {delayed['seconds']:g} s, at most "
        f"{config['total_bytes']:,} bytes. The clock "
        "includes the round trip. The emulator has no congestion control of its own: "
        "this shows what a protocol makes of delay, not what TCP does."
    )


def _link(config: Config) -> str:
    return (
        "One bare socket through the emulator: bytes over links with a rate, small "
        "writes to and fro over the others. Set is what the settings come to: a stall "
        "takes its share of the rate, a round trip has the delay and the jitter of "
        "both ways. Found includes what the machine adds."
    )


def _handover(config: Config) -> str:
    block = config["scattered_block_bytes"]
    count = config["total_bytes"] // block
    return (
        "From the last byte that the prefill side wrote: it grants "
        f"{count:,} scattered blocks of {block:,} bytes of its arena, another process "
        "is told through this one, maps them and lets one query of 128 values score "
        "all keys (float32). Nothing is copied: memory is what the reader had of its "
        "own at most, and its bound a fiftieth of the bytes. Beside it, in one "
        "process, the same blocks are copied first."
    )


def _sequential(config: Config) -> str:
    return (
        f"One file of {config['total_bytes']:,} bytes: written once to warm up, then "
        "over that by the clock until it is on the disk, then read. The engine has "
        "checksums on, and verifies what it reads; fio has none. The engine has eight "
        "calls of up to 1 MiB under way."
    )


def _memory(config: Config) -> str:
    memory = config["memory"]
    return (
        f"{memory['total_bytes']:,} bytes through arenas of {memory['arena_bytes']:,}, "
        "written again and again. Start is after the first few bytes, so the "
        "interpreter is in it. The bound is the arena and, for every stream, one slice "
        "with its tag."
    )


_HOW: dict[str, Callable[[Config], str]] = {
    "small": _small,
    "encryption": _encryption,
    "cpu": _cpu,
    "delayed": _delayed,
    "link": _link,
    "handover": _handover,
    "sequential": _sequential,
    "memory": _memory,
}


def method(config: Config) -> str:
    """Paragraphs on shapes, rounds, what is inside of the clock and what is not."""
    return "\n\n".join([_shapes(config), _rounds(config), _ours(), _others(), _costs()])


def _shapes(config: Config) -> str:
    total, block = config["total_bytes"], config["scattered_block_bytes"]
    return (
        f"Contiguous: {total:,} bytes in one piece. Scattered: {total // block:,} "
        f"blocks of {block:,} bytes, permuted at both ends, in one batch. Small and "
        "grouped: blocks out of as large a buffer, permuted at both ends, in one "
        f"batch. Latency: writes of {config['latency_bytes']:,} bytes, one after the "
        f"other, {config['latency_samples']:,} of ours and of the bare socket's in a "
        "round, 500 of a peer's program. GB are 1e9 bytes."
    )


def _rounds(config: Config) -> str:
    return (
        f"{config['rounds']} rounds; in the first {config['slow_rounds']} of them also "
        "the peers' programs and the delayed links. In each, everybody ran once, in "
        "fresh processes, between two over loopback; the order turned round with "
        "every round. A transfer of each shape to warm up, then one by the clock, "
        "which is the caller's: from the call to the return, when the bytes are known "
        "to have arrived. Then the receiver compared every byte with what the sender's "
        "seed makes; ours and the bare socket's receivers had cleared their memory "
        "before the clock started."
    )


def _ours() -> str:
    return (
        "A grant to write is for one transfer. The receiver issued the grants of all "
        "transfers, those of delays too, before the clock started, and they were "
        "handed over then; what that costs is in no figure but that of shared memory. "
        "Each is of the whole buffer: which block goes where travels inside of the "
        "clocked time. Every transfer carries a note, which the receiver is told once "
        "all bytes are in place and verified; the receiver saw all of them. With an "
        "agent, `prefillshare serve agent` runs beside each of the two and has the "
        "engine, and the memory is shared with it."
    )


def _others() -> str:
    return (
        "The bare socket has no checksums and no framing, and both of its sides know "
        "the table of blocks beforehand, as ready-made views: the kernel gathers and "
        "scatters up to 1,024 blocks a call, an `ssl` socket one. A byte comes back on "
        "every stream. Peers' programs are run as they are, with one repetition by the "
        "clock, and the settings named above; they have no checksums of their own over "
        "TCP, register memory beforehand and do not measure small blocks in one batch. "
        "Mooncake's program sends the scattered blocks in batches of 512, since all at "
        "once are refused at its default settings; `CHUNK` sets another number."
    )


def _costs() -> str:
    return (
        "CPU seconds are user and system time of both processes, with all of their "
        "threads and of processes they started, over the clocked transfer: of ours "
        "and of the bare socket's two processes to the microsecond, the messages that "
        "ask for them included; of agents from the kernel's counters of ticks, and so "
        "of a peer's processes, which its initiator reads around the clocked part: "
        "good to about 20 ms a process; of fio as it says. What the "
        "kernel does in interrupts is in it as far as it is charged to them. Extra "
        "memory is the most that the receiving process had resident during the "
        "clocked transfer, less what it had right before, its buffer included. The "
        "decode loop is matrix-vector products of numpy and plain Python by turns, on "
        "one thread: in the caller's process it holds the interpreter's lock as a "
        "decoder in Python does."
    )
