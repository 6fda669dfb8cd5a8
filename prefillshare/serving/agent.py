"""`serve agent`: the process that owns a host's sockets and arena."""

from __future__ import annotations

from contextlib import ExitStack

from prefillshare.lifeline import announce, stop_event
from prefillshare.transfer.agent.server import Agent
from prefillshare.transfer.agent.settings import AgentSettings
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.discovery.base import Entry
from prefillshare.transfer.discovery.settings import open_directory
from prefillshare.transfer.tcp.engine import TcpEngine


def serve_agent(settings: AgentSettings) -> None:
    """Be the agent until SIGINT, SIGTERM or the launcher's end; announces its address.

    Raises:
        ConfigError: an address or certificate is unusable.
        CapacityError: there is no such memory.
        DirectoryError: the directory cannot be used.
    """
    with stop_event() as stopped, ExitStack() as stack:
        directory = None
        if settings.discovery is not None:
            directory = open_directory(settings.discovery)
            stack.callback(directory.close)
        engine = TcpEngine(
            settings.listen, settings.tcp, settings.security, directory=directory
        )
        stack.callback(engine.close)
        arena = Arena(settings.arena_bytes, writers=True)
        agent = Agent(
            str(settings.socket), engine, arena, settings.routes, settings.advertise
        )
        stack.callback(agent.close)
        if directory is not None:
            entry = _entry(engine, agent.address)
            stack.callback(directory.register(entry).close)
        announce("agent", agent.address)
        stopped.wait()


def _entry(engine: TcpEngine, address: str) -> Entry:
    who = engine.identity
    assert who is not None, "settings see to it that there is a certificate"
    return Entry(who, address, engine.engine_id)
