"""`serve agent`: the process that owns a host's sockets and arena."""

from __future__ import annotations

from contextlib import ExitStack

from prefillshare.lifeline import announce, stop_event
from prefillshare.transfer.agent.server import Agent
from prefillshare.transfer.agent.settings import AgentSettings
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.discovery.base import Directory, Entry, Registration
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
        agent = Agent(str(settings.socket), engine, arena, settings.routes)
        stack.callback(agent.close)
        if directory is not None:
            stack.callback(_registered(directory, engine).close)
        announce("agent", engine.address)
        stopped.wait()


def _registered(directory: Directory, engine: TcpEngine) -> Registration:
    who = engine.identity
    assert who is not None, "settings see to it that there is a certificate"
    return directory.register(Entry(who, engine.address, engine.engine_id))
