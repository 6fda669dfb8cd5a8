"""An engine in a process of its own, which does what it is told, and can be killed.

As a module, it takes orders as lines of JSON, and answers each with a line.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from prefillshare.errors import PrefillShareError
from prefillshare.transfer.agent.client import AgentEngine
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.base import Access, Engine, Grant, Link, Transfer
from prefillshare.transfer.secure.contexts import SecuritySettings
from prefillshare.transfer.shm import ShmEngine
from prefillshare.transfer.tcp.engine import TcpEngine
from prefillshare.transfer.tcp.settings import TcpSettings
from tests.transfer.pairs import LONG, SECONDS, Ends, noise, until

Facts = dict[str, Any]
ROOT = Path(__file__).parents[3]


class Orders:
    """What can be asked of the process; arguments and answers are JSON."""

    engine: Engine
    link: Link
    transfer: Transfer

    def __init__(self) -> None:
        self.ends = Ends()
        self.memory = memoryview(bytearray(1))
        self.files: list[int] = []
        self.arena: Arena | None = None
        self.used = 0

    def open(self, listen: str, settings: Facts, keys: Facts | None) -> str:
        """An engine over TCP; its address."""
        security = None if keys is None else SecuritySettings.model_validate(keys)
        self.engine = TcpEngine(listen, TcpSettings(**settings), security)
        return self.engine.address

    def share(self, address: str, arena_bytes: int) -> str:
        """An engine over shared memory; its address."""
        self.arena = Arena(arena_bytes)
        self.engine = ShmEngine(self.arena, address)
        return self.engine.address

    def work(self, path: str) -> str:
        """The engine of an agent."""
        self.engine = AgentEngine(path)
        return self.engine.address

    def lend(self, access: Access, size: int) -> Facts:
        """Grant noise to read, or zeros to write to."""
        region = self.engine.register(self._memory(size, full=access == "read"))
        whole, self.ends = np.array([[0, size]]), Ends()
        return self.engine.grant(region, whole, access, self.ends).to_dict()

    def again(self) -> Facts:
        """Grant what was lent last once more."""
        region = self.engine.register(self.memory)
        whole, self.ends = np.array([[0, len(self.memory)]]), Ends()
        return self.engine.grant(region, whole, "read", self.ends).to_dict()

    def lend_pieces(self, count: int) -> Facts:
        """Grant noise to read, every other byte of it."""
        memory = self._memory(2 * count, full=True)
        first = np.arange(0, 2 * count, 2)
        pieces = np.column_stack([first, np.ones_like(first)])
        self.ends, region = Ends(), self.engine.register(memory)
        return self.engine.grant(region, pieces, "read", self.ends).to_dict()

    def lend_often(self, count: int, size: int) -> list[Facts]:
        """Grant the same noise again and again."""
        region = self.engine.register(self._memory(size, full=True))
        whole, self.ends = np.array([[0, size]]), Ends()
        several = range(count)
        return [
            self.engine.grant(region, whole, "read", self.ends).to_dict()
            for _ in several
        ]

    def ended_often(self, count: int) -> None:
        """Wait until so many of those have ended."""
        until(lambda: len(self.ends.told) == count)

    def ended(self) -> tuple[str, int]:
        """How the last grant ended."""
        end = self.ends.one()
        return end.outcome.value, end.bytes

    def connect(self, address: str) -> None:
        """The link for what follows."""
        self.link = self.engine.connect(address)

    def prepare(self, grant: Facts) -> None:
        """Begin, and move nothing yet."""
        found = Grant.from_dict(grant)
        reads = found.access == "read"
        region = self.engine.register(self._memory(found.size, full=not reads))
        begin = self.link.read if reads else self.link.write
        self.transfer = begin(found, region, timeout=SECONDS)

    def start(self, grant: Facts) -> None:
        """Begin, and move the first half."""
        self.prepare(grant)
        half = len(self.memory) // 2
        self.transfer.add(np.array([[0, 0, half]]))
        until(lambda: self.transfer.progress[0] == half)

    def flood(self, grant: Facts) -> None:
        """Write a grant, and have more to say of it than a socket holds."""
        found, rows = Grant.from_dict(grant), 1 << 19
        region = self.engine.register(self._memory(100, full=True))
        self.transfer = self.link.write(found, region, timeout=LONG)
        for first in range(16):
            remote = first + 32 * np.arange(rows)
            table = [np.zeros_like(remote), remote, np.ones_like(remote)]
            self.transfer.add(np.column_stack(table))

    def finish(self) -> int:
        """Move the rest, and wait; how many bytes there were."""
        first = self.transfer.progress[1]
        rest = [[first, first, len(self.memory) - first]]
        self.transfer.add(np.array(rest))
        self.transfer.finish()
        return self.wait()

    def wait(self) -> int:
        """Wait for the end, which may be an error."""
        return self.transfer.wait(SECONDS).bytes

    def whole(self) -> bool:
        """Whether the memory is all noise, as it should be after a transfer."""
        return bytes(self.memory) == noise(len(self.memory)).tobytes()

    def use_up_files(self, spare: int) -> None:
        """Open files until no more than `spare` may be opened."""
        with suppress(OSError):
            while True:
                self.files.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(spare):
            os.close(self.files.pop())

    def free_files(self) -> None:
        """Close them all."""
        while self.files:
            os.close(self.files.pop())

    def limit_memory(self, more: int) -> None:
        """Allow so many bytes more than there are now; all that there are with -1."""
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        now = (
            int(Path("/proc/self/statm").read_text().split()[0])
            * resource.getpagesize()
        )
        soft = most if more < 0 else now + more
        resource.setrlimit(resource.RLIMIT_AS, (soft, most))

    def vitals(self) -> tuple[int, int]:
        """How many threads and descriptors there are."""
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    def close(self) -> None:
        """End the engine."""
        self.engine.close()

    def _memory(self, size: int, *, full: bool) -> memoryview:
        if isinstance(self.engine, AgentEngine):
            self.memory = self.engine.allocate(size)
        elif self.arena is not None:
            self.memory = self.arena.view[self.used : self.used + size]
            self.used += size
        else:
            self.memory = memoryview(bytearray(size))
        self.memory[:] = noise(size).tobytes() if full else bytes(size)
        return self.memory


class Failed(Exception):
    """An order failed; `kind` is the class of the error."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Far:
    """The process, as its tests see it; a context that ends it, if need be by force."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.transfer.tcp.far"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            # Large buffers come from the kernel, so that a limit is felt at once.
            env={**os.environ, "MALLOC_ARENA_MAX": "1"},
        )

    def __enter__(self) -> Far:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self.signal(signal.SIGCONT)
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    def ask(self, order: str, **arguments: object) -> Any:
        """What it answers; `Failed` with the error by which it could not."""
        assert self._process.stdout is not None
        self.tell(order, **arguments)
        answer = json.loads(self._process.stdout.readline())
        if "failed" in answer:
            raise Failed(*answer["failed"])
        return answer["found"]

    def tell(self, order: str, **arguments: object) -> None:
        """Have it do something, without waiting for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([order, arguments]) + "\n")
        self._process.stdin.flush()

    def open(
        self,
        settings: TcpSettings,
        keys: SecuritySettings | None = None,
        listen: str = "tcp://127.0.0.1:0",
    ) -> str:
        """See `Orders.open`."""
        files = keys.model_dump(mode="json") if keys else None
        found: str = self.ask(
            "open", listen=listen, settings=settings.model_dump(), keys=files
        )
        return found

    def lend(self, access: Access, size: int) -> Grant:
        """See `Orders.lend`."""
        return Grant.from_dict(self.ask("lend", access=access, size=size))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it lives; one to stop it has stopped all of its threads."""
        self._process.send_signal(number)
        if number == signal.SIGSTOP:
            until(self._stopped)

    def _stopped(self) -> bool:
        tasks = Path(f"/proc/{self._process.pid}/task")
        # The state comes after the name, which is in brackets.
        stats = [(each / "stat").read_text() for each in tasks.iterdir()]
        return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)

    def kill(self) -> None:
        """End it at once, as for want of memory."""
        self._process.kill()
        self._process.wait()


def main() -> None:
    """Carry out what is asked until the input ends."""
    orders = Orders()
    for line in sys.stdin:
        order, arguments = json.loads(line)
        try:
            answer = {"found": getattr(orders, order)(**arguments)}
        except PrefillShareError as error:
            answer = {"failed": [type(error).__name__, str(error)]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    orders.close()


if __name__ == "__main__":
    main()
