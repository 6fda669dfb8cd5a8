"""`serve agent`: the process that owns a host's sockets and arena."""

from __future__ import annotations

from contextlib import ExitStack

from prefillshare.lifeline import announce, stop_event
from prefillshare.transfer.agent.server import Agent
from prefillshare.transfer.agent.settings import AgentSettings
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.tcp.engine import TcpEngine


def serve_agent(settings: AgentSettings) -> None:
    """Be the agent until SIGINT, SIGTERM or the launcher's end; announces its address.

    Raises:
        ConfigError: an address or certificate is unusable.
        CapacityError: there is no such memory.
    """
    with stop_event() as stopped, ExitStack() as stack:
        engine = TcpEngine(settings.listen, settings.tcp, settings.security)
        stack.callback(engine.close)
        arena = Arena(settings.arena_bytes, writers=True)
        agent = Agent(str(settings.socket), engine, arena, settings.routes)
        stack.callback(agent.close)
        announce("agent", engine.address)
        stopped.wait()
