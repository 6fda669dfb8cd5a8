"""The serving configuration, as YAML gives it."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from prefillshare.config import Config
from prefillshare.kv.layout import KVFormat


class DecoderSettings(Config):
    """One served decoder: `name` is the model name that clients ask for.

    `model` is the one whose weights it started from, if not the prefill module.
    """

    name: str = Field(min_length=1)
    path: Path
    model: Path | None = None
    url: str | None = None


class ServeSettings(Config):
    """A router, one prefill worker, and a decode worker per decoder.

    `url`s and ports are filled in by `serve all`; with roles started by hand they
    say where the other roles are.
    """

    model: Path
    decoders: list[DecoderSettings] = Field(min_length=1)
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    prefill_url: str | None = None
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
