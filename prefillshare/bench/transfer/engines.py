"""This project's engines as the benchmark's settings mean them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prefillshare.bench.transfer.processes import started
from prefillshare.bench.transfer.shapes import Memory, buffer
from prefillshare.bench.transfer.specs import Ours
from prefillshare.errors import ConfigError
from prefillshare.transfer.agent.client import AgentEngine
from prefillshare.transfer.agent.space import whole_pages
from prefillshare.transfer.base import Engine, Link, Region
from prefillshare.transfer.secure.authority import issue, make_authority
from prefillshare.transfer.secure.contexts import SecuritySettings
from prefillshare.transfer.secure.identity import PeerIdentity
from prefillshare.transfer.tcp.engine import TcpEngine
from prefillshare.transfer.tcp.settings import TcpSettings

LISTEN = "tcp://127.0.0.1:0"


@dataclass(frozen=True)
class Place:
    """An engine and the memory that it moves; `close` frees both.

    A peer in `routes` is reached by another address than its own.
    """

    engine: Engine
    memory: Memory
    region: Region
    routes: Mapping[str, str]
    close: Callable[[], None]

    def connect(self, address: str) -> Link:
        """The link to a peer."""
        return self.engine.connect(self.routes.get(address, address))


def make_certificates(folder: Path) -> None:
    """An authority of its own and the certificate of one host, for both ends."""
    make_authority(folder)
    issue(folder, PeerIdentity("bench", "bench", "bench"))


def make_engine(settings: Ours, certificates: Path | None = None) -> Engine:
    """The engine that a contestant's settings mean.

    `certificates` is a folder of `make_certificates`; `ConfigError` if they are needed,
    to encrypt, and there are none.
    """
    own = tcp_settings(settings)
    if not settings.encrypted:
        return TcpEngine(LISTEN, own)
    return TcpEngine(LISTEN, own, security(certificates))


def tcp_settings(settings: Ours) -> TcpSettings:
    """What the engine is set to."""
    given = settings.model_dump(include={"streams", "slice_bytes"}, exclude_none=True)
    sealed = "always" if settings.encrypted else "never"
    return TcpSettings.model_validate({"sealed": sealed, **given})


def security(certificates: Path | None) -> SecuritySettings:
    """The files of `make_certificates`."""
    if certificates is None:
        raise ConfigError("encryption needs certificates; pass a folder of them")
    names = {"ca": "ca.pem", "certificate": "bench.pem", "key": "bench.key"}
    files = {key: certificates / name for key, name in names.items()}
    return SecuritySettings.model_validate(files)


def open_place(
    settings: Ours, size: int, certificates: Path | None, routes: Mapping[str, str]
) -> Place:
    """An engine with `size` bytes of memory, resident and zero, in this process.

    With `agent`, the engine is in a process of its own, and the memory in its arena. A
    peer in `routes` is reached by another address than its own.
    """
    with ExitStack() as stack:
        if settings.agent:
            engine, memory = _agent(stack, settings, size, certificates, routes)
            # The agent knows them, and grants name peers by their own addresses.
            routes = {}
        else:
            engine = make_engine(settings, certificates)
            stack.callback(engine.close)
            memory = buffer(size)
        region = engine.register(memory.data)
        return Place(engine, memory, region, routes, stack.pop_all().close)


def _agent(
    stack: ExitStack,
    settings: Ours,
    size: int,
    certificates: Path | None,
    routes: Mapping[str, str],
) -> tuple[Engine, Memory]:
    """`prefillshare serve agent`, an arena of `size` bytes, and a worker's memory."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agent-")))
    path = str(folder / "socket")
    agent: dict[str, object] = {
        "socket": path,
        "listen": LISTEN,
        "arena_bytes": whole_pages(size),
        "tcp": tcp_settings(settings).model_dump(),
        "routes": dict(routes),
    }
    if settings.encrypted:
        agent["security"] = security(certificates).model_dump(mode="json")
    given = [f"--set={key}={json.dumps(value)}" for key, value in agent.items()]
    stack.enter_context(started(["prefillshare", "serve", "agent", *given]))
    engine = AgentEngine(path)
    stack.callback(engine.close)
    memory = np.frombuffer(engine.allocate(size), np.uint8)
    memory[:] = 0
    return engine, memory
