"""Settings of a host's agent."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from prefillshare.config import Config
from prefillshare.transfer.agent.advertise import check_reachable, parse_advertise
from prefillshare.transfer.discovery.settings import DiscoverySettings
from prefillshare.transfer.secure.contexts import SecuritySettings
from prefillshare.transfer.tcp.settings import TcpSettings
from prefillshare.transfer.tcp.sockets import parse_address


class AgentSettings(Config):
    """What the agent of one host owns, and how it is reached.

    Attributes:
        socket: the Unix socket on which the workers of this host find it.
        listen: where agents of other hosts do, `tcp://HOST:PORT`; port 0 takes a free
            one. Off loopback it needs `security`; a wildcard (`tcp://0.0.0.0:7000`,
            `tcp://[::]:7000`) also needs `advertise`.
        advertise: HOST or HOST:PORT by which they reach it, where that differs from
            `listen`: one of several addresses, a name, a forwarded port. Grants and
            the directory name it; without a port it is the one that is listened on.
        arena_bytes: memory that it shares with the workers.
        routes: addresses of peers, as their grants name them, that are reached by
            another: a relay, or a forwarded port. Who answers there must still be the
            engine that the grant names, with a certificate if there are any.
        discovery: the directory in which this host is found, by the name in its
            certificate, and finds others, as `prefillshare://REGION/SITE/HOST`. It
            needs `security`.
    """

    socket: Path
    listen: str = "tcp://127.0.0.1:0"
    advertise: str | None = None
    arena_bytes: int = Field(ge=1)
    tcp: TcpSettings = TcpSettings()
    security: SecuritySettings | None = None
    routes: dict[str, str] = {}
    discovery: DiscoverySettings | None = None

    @field_validator("listen")
    @classmethod
    def _one_address(cls, listen: str) -> str:
        parse_address(listen)
        return listen

    @field_validator("advertise")
    @classmethod
    def _a_host(cls, advertise: str | None) -> str | None:
        if advertise is not None:
            parse_advertise(advertise)
        return advertise

    @field_validator("routes")
    @classmethod
    def _addresses(cls, routes: dict[str, str]) -> dict[str, str]:
        for address in (*routes, *routes.values()):
            parse_address(address)
        return routes

    @model_validator(mode="after")
    def _reached(self) -> Self:
        # Without a certificate the engine says why it may not listen there.
        if self.advertise is None and self.security is not None:
            check_reachable(self.listen)
        return self

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.discovery is not None and self.security is None:
            raise ValueError(
                "`discovery` needs `security`: a host is found by the name in its "
                "certificate; make one with `prefillshare keys`"
            )
        return self
