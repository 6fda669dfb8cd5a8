"""What the router and the workers say to each other: JSON over HTTP."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

TOKEN_VARIABLE = "PREFILLSHARE_WORKER_TOKEN"  # noqa: S105


class Message(BaseModel):
    """Base of all messages: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PrefillRequest(Message):
    """Prefill `token_ids` (up to the boundary) and hold them for one transfer."""

    request_id: str
    model_id: str
    token_ids: list[int] = Field(min_length=1)
    tenant: str = ""


class PrefillReply(Message):
    """Where the cache can be fetched, and what it took to make it.

    `cached_tokens` came from the prefix cache; the rest was computed.
    """

    ticket: dict[str, Any]
    tokens: int
    cached_tokens: int
    model_id: str
    kv_format: dict[str, Any]


class DecodeRequest(Message):
    """Generate after `token_ids`; `prefill` is None for an own-prefill decoder."""

    request_id: str
    token_ids: list[int] = Field(min_length=2)
    boundary: int = Field(ge=1)
    prefill: PrefillReply | None
    max_tokens: int = Field(ge=1)
    stop_ids: list[int]
    temperature: float = 0.0
    seed: int | None = None


class DecodeFigures(Message):
    """`computed_tokens` are the prompt positions that the decoder computed itself."""

    computed_tokens: int
    cached_tokens: int
    bytes_moved: int
    transfer_seconds: float


class DecodeEvent(Message):
    """One line of a decode worker's answer.

    Exactly one of: a `token`; `done`, with the figures of the request; `error`.
    """

    token: int | None = None
    done: DecodeFigures | None = None
    error: str | None = None
