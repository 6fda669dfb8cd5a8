"""The serving configuration, as YAML gives it."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from prefillshare.config import Config
from prefillshare.kv.layout import KVFormat
from prefillshare.transfer.linkemu.shaper import LinkSettings
from prefillshare.transfer.secure.contexts import SecuritySettings
from prefillshare.transfer.secure.identity import PeerIdentity
from prefillshare.transfer.tcp.settings import TcpSettings


class DecoderSettings(Config):
    """One served decoder: `name` is the model name that clients ask for.

    `model` is the one whose weights it started from, if not the prefill module.
    """

    name: str = Field(min_length=1)
    path: Path
    model: Path | None = None
    url: str | None = None


class SiteSettings(Config):
    """A datacenter, and the certificate of its agent, which must name that site."""

    name: str
    security: SecuritySettings | None = None

    @field_validator("name")
    @classmethod
    def _a_name(cls, name: str) -> str:
        PeerIdentity("region", name, "host")
        return name


class SiteLinkSettings(Config):
    """A link between sites, emulated on this machine; both directions are alike.

    Attributes:
        rate_gbps: in 1e9 bits per second; null carries as fast as the machine does.
        delay_seconds: one way: half of what a round trip takes.
        jitter_seconds: at most so much more.
    """

    rate_gbps: float | None = Field(None, gt=0.0)
    delay_seconds: float = Field(0.0, ge=0.0)
    jitter_seconds: float = Field(0.0, ge=0.0)

    @property
    def emulated(self) -> LinkSettings:
        """As the emulator takes it."""
        rate = None if self.rate_gbps is None else self.rate_gbps * 1e9
        return LinkSettings(
            rate=rate, delay=self.delay_seconds, jitter=self.jitter_seconds
        )


class SitesSettings(Config):
    """Prefill and decode workers in two sites, each with an agent of its own.

    KV between them is encrypted, unless `tcp.sealed` is `never`. Certificates that are
    not given are made for the time that it runs.
    """

    prefill: SiteSettings
    decode: SiteSettings
    link: SiteLinkSettings | None = None

    @model_validator(mode="after")
    def _two_of_them(self) -> Self:
        if self.prefill.name == self.decode.name:
            raise ValueError(
                f"both sites are {self.prefill.name!r}; leave `sites` out if there is "
                "one, or name two"
            )
        if (self.prefill.security is None) != (self.decode.security is None):
            raise ValueError(
                "one site has a certificate, the other has none; give both theirs, or "
                "neither"
            )
        return self


class ServeSettings(Config):
    """A router, one prefill worker, and a decode worker per decoder.

    `url`s, ports and `agent`, the Unix socket of the agent of a worker's host, are
    filled in by `serve all`; with roles started by hand they say where the others are.
    `sites` and `tcp` are for the agents that `serve all` starts: one for all, unless
    there are two sites.
    """

    model: Path
    decoders: list[DecoderSettings] = Field(min_length=1)
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    prefill_url: str | None = None
    agent: Path | None = None
    sites: SitesSettings | None = None
    tcp: TcpSettings = TcpSettings()
    dtype: Literal["float64", "float32", "bfloat16"] = "float32"
    block_tokens: int = Field(16, ge=1)
    prefill_blocks: int = Field(1024, ge=1)
    decode_blocks: int = Field(512, ge=1)
    chunk_tokens: int = Field(512, ge=1)
    threads: int = Field(0, ge=0)
    request_timeout: float = Field(300.0, gt=0.0)
    transfer_timeout: float = Field(60.0, gt=0.0)
    stop_timeout: float = Field(10.0, gt=0.0)

    @property
    def kv_format(self) -> KVFormat:
        """The format in which caches are kept and moved."""
        return KVFormat(self.dtype, self.block_tokens)

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [decoder.name for decoder in self.decoders]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"decoder names must differ, {twice} occur twice")
        if self.host != "localhost" and not ipaddress.ip_address(self.host).is_loopback:
            raise ValueError(
                f"host {self.host} is not a loopback address; this version serves "
                "without authentication or encryption, so it stays on 127.0.0.1 or ::1"
            )
        return self

    def decoder(self, name: str) -> DecoderSettings:
        """The decoder of that name, which must exist."""
        return next(d for d in self.decoders if d.name == name)
