"""What a reader has to know to judge the figures of the transfer benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def method(config: Mapping[str, Any]) -> str:
    """Paragraphs on shapes, rounds, what is inside of the clock and what is not."""
    return "\n\n".join([_shapes(config), _rounds(config), _ours(), _others(), _costs()])


def _shapes(config: Mapping[str, Any]) -> str:
    total, block = config["total_bytes"], config["scattered_block_bytes"]
    return (
        f"Contiguous: {total:,} bytes in one piece. Scattered: {total // block:,} "
        f"blocks of {block:,} bytes, permuted at both ends, in one batch. Small: "
        f"{config['small_blocks']:,} blocks of {config['small_block_bytes']:,} bytes "
        "out of as large a buffer, permuted at both ends, in one batch. Latency: "
        f"writes of {config['latency_bytes']:,} bytes, one after the other, "
        f"{config['latency_samples']:,} of ours and of the bare socket's in a round, "
        "500 of a peer's program. GB are 1e9 bytes."
    )


def _rounds(config: Mapping[str, Any]) -> str:
    return (
        f"{config['rounds']} rounds. In each, everybody ran once, two fresh processes "
        "over loopback; the order turned round with every round. A transfer of each "
        "shape to warm up, then one by the clock, which is the caller's: from the call "
        "to the return, when the bytes are known to have arrived. Then the receiver "
        "compared every byte with what the sender's seed makes; ours and the bare "
        "socket's receivers had cleared their memory before the clock started."
    )


def _ours() -> str:
    return (
        "A grant to write is for one transfer. The receiver issued the grants of all "
        "transfers, those of delays too, before the clock started, and they were "
        "handed over then; what that costs is in no figure. Each is of the whole "
        "buffer: which block goes where travels inside of the clocked time. Every "
        "transfer carries a note, which the receiver is told once all bytes are in "
        "place and verified; the receiver saw all of them. With an agent, a process "
        "beside each of the two has the engine, and the memory is shared with it."
    )


def _others() -> str:
    return (
        "The bare socket has no checksums and no framing, and both of its sides know "
        "the table of blocks beforehand, as ready-made views: the kernel gathers and "
        "scatters up to 1,024 blocks a call. A byte comes back on every stream. "
        "Peers' programs are run as they are, with one repetition by the clock, and "
        "the settings named above; they have no checksums of their own over TCP, "
        "register memory beforehand and do not measure small blocks in one batch. "
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
        "good to about 20 ms a process. What the "
        "kernel does in interrupts is in it as far as it is charged to them. Extra "
        "memory is the most that the receiving process had resident during the "
        "clocked transfer, less what it had right before, its buffer included. The "
        "decode loop is matrix-vector products of numpy and plain Python by turns, on "
        "one thread: in the caller's process it holds the interpreter's lock as a "
        "decoder in Python does."
    )
