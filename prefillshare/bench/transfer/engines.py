"""This project's engines as the benchmark's settings mean them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prefillshare.bench.transfer.settings import Ours
from prefillshare.bench.transfer.shapes import Memory, buffer
from prefillshare.errors import ConfigError, TransferBroken
from prefillshare.transfer.agent.client import AgentEngine
from prefillshare.transfer.agent.server import Agent
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.base import Engine, Region
from prefillshare.transfer.secure.authority import issue, make_authority
from prefillshare.transfer.secure.contexts import SecuritySettings
from prefillshare.transfer.secure.identity import PeerIdentity
from prefillshare.transfer.tcp.engine import TcpEngine
from prefillshare.transfer.tcp.settings import TcpSettings

LISTEN = "tcp://127.0.0.1:0"
# Beyond the buffer, so that it can begin at a page.
SPARE = 1 << 16


@dataclass(frozen=True)
class Place:
    """An engine and the memory that it moves; `close` frees both."""

    engine: Engine
    memory: Memory
    region: Region
    close: Callable[[], None]


def make_certificates(folder: Path) -> None:
    """An authority of its own and the certificate of one host, for both ends."""
    make_authority(folder)
    issue(folder, PeerIdentity("bench", "bench", "bench"))


def make_engine(
    transport: str, listen: str, settings: Ours, certificates: Path | None = None
) -> Engine:
    """The engine that a contestant's settings mean.

    `certificates` is a folder of `make_certificates`, needed to encrypt. Raises
    `ConfigError` for settings that there is no engine for.
    """
    if transport != "tcp":
        raise ConfigError(f"there is no engine over {transport!r}; set transport: tcp")
    sealed = "always" if settings.encrypted else "never"
    given = settings.model_dump(include={"streams", "slice_bytes"}, exclude_none=True)
    own = TcpSettings.model_validate({"sealed": sealed, **given})
    if not settings.encrypted:
        return TcpEngine(listen, own)
    if certificates is None:
        raise ConfigError(f"{settings.name}: encryption needs certificates")
    names = {"ca": "ca.pem", "certificate": "bench.pem", "key": "bench.key"}
    files = {key: certificates / name for key, name in names.items()}
    return TcpEngine(listen, own, SecuritySettings.model_validate(files))


def open_place(settings: Ours, size: int, certificates: Path | None) -> Place:
    """An engine with `size` bytes of memory, resident and zero, in this process.

    With `agent`, the engine is in a process of its own, and the memory in its arena.
    """
    with ExitStack() as stack:
        if settings.agent:
            engine, memory = _agent(stack, settings, size, certificates)
        else:
            engine = make_engine(settings.transport, LISTEN, settings, certificates)
            stack.callback(engine.close)
            memory = buffer(size)
        region = engine.register(memory.data)
        return Place(engine, memory, region, stack.pop_all().close)


def _agent(
    stack: ExitStack, settings: Ours, size: int, certificates: Path | None
) -> tuple[Engine, Memory]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agent-")))
    path = str(folder / "socket")
    arguments = [path, str(size), settings.model_dump_json(), str(certificates or "")]
    child = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-m", "prefillshare.bench.transfer.engines", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    )
    assert child.stdin is not None and child.stdout is not None
    # It ends with its input, also when this process is killed.
    stack.callback(child.stdin.close)
    if not child.stdout.readline():
        raise TransferBroken("the agent did not start; its output says why")
    engine = AgentEngine(path)
    stack.callback(engine.close)
    memory = np.frombuffer(engine.allocate(size), np.uint8)
    memory[:] = 0
    return engine, memory


def main(argv: Sequence[str]) -> int:
    """Be the agent of one end, until the input ends."""
    path, size, settings, certificates = argv
    own = Ours.model_validate_json(settings)
    folder = Path(certificates) if certificates else None
    engine = make_engine(own.transport, LISTEN, own, folder)
    agent = Agent(path, engine, Arena(int(size) + SPARE, writers=True))
    sys.stdout.write("READY\n")
    sys.stdout.flush()
    sys.stdin.read()
    agent.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
