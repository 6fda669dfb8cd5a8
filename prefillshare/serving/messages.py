"""What the router and the workers say to each other: JSON over HTTP."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from prefillshare.transfer.base import Grant

TOKEN_VARIABLE = "PREFILLSHARE_WORKER_TOKEN"  # noqa: S105


class Message(BaseModel):
    """Base of all messages: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BridgeOrder(Message):
    """Make of a prompt's cache the one that a decoder of another model reads.

    Attributes:
        bridge: digest of the decoder's bridge.
        source_tokens: of the prompt up to the boundary, in the prefill module's tokens.
        token_ids: the same in the decoder's.
        shares: for each of the decoder's tokens the prefill module's and their
            weights (`models.bridge.spans`); None where both have the same tokens.
    """

    bridge: str
    source_tokens: int = Field(ge=1)
    token_ids: list[int] = Field(min_length=1)
    shares: list[list[tuple[int, float]]] | None = None

    @property
    def tokens(self) -> int:
        """Of the bridged cache."""
        return len(self.token_ids)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        rows = self.shares
        if rows is None:
            if self.tokens != self.source_tokens:
                raise ValueError(
                    f"{self.source_tokens} tokens cannot become {self.tokens} without "
                    "shares"
                )
        elif len(rows) != self.tokens or not all(rows):
            raise ValueError(f"{len(rows)} shares do not suit {self.tokens} tokens")
        elif not all(0 <= i < self.source_tokens for row in rows for i, _ in row):
            raise ValueError(f"shares name tokens outside the {self.source_tokens}")
        return self


class PrefillRequest(Message):
    """Prefill `token_ids` (up to the boundary) and hold them for one transfer.

    With `bridge`, what is held is the cache that the bridge makes of them.
    """

    request_id: str
    model_id: str
    token_ids: list[int] = Field(min_length=1)
    tenant: str = ""
    bridge: BridgeOrder | None = None


class PrefillReply(Message):
    """Leave to read the cache, once, and what it took to make it.

    The grant is for `blocks` blocks, one behind the other. `cached_tokens` came from
    the prefix cache; the rest was computed. A bridged cache has the `model_id` of
    `ModelId.bridged` and the decoder's number of `tokens`.
    """

    grant: Grant
    blocks: int = Field(ge=1)
    bytes_per_block: int = Field(ge=1)
    tokens: int
    cached_tokens: int
    model_id: str
    kv_format: dict[str, Any]


class DecodeRequest(Message):
    """Generate after `token_ids`; `prefill` is None for an own-prefill decoder.

    `bridge` is there if the cache still has to be bridged.
    """

    request_id: str
    token_ids: list[int] = Field(min_length=2)
    boundary: int = Field(ge=1)
    prefill: PrefillReply | None
    bridge: BridgeOrder | None = None
    max_tokens: int = Field(ge=1)
    stop_ids: list[int]
    temperature: float = 0.0
    seed: int | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.boundary >= len(self.token_ids):
            raise ValueError(
                f"the boundary {self.boundary} leaves none of {len(self.token_ids)} "
                "tokens to the decoder"
            )
        bridge, read = self.bridge, self.token_ids[: self.boundary]
        if bridge is not None and bridge.token_ids != read:
            raise ValueError(
                f"the bridged cache would be of {bridge.tokens} tokens that are not "
                f"the {self.boundary} before the boundary"
            )
        return self


class DecodeFigures(Message):
    """`computed_tokens` are the prompt positions that the decoder computed itself.

    Of `bytes_moved`, `bytes_sealed` were encrypted on the way.
    """

    computed_tokens: int
    cached_tokens: int
    bytes_moved: int = 0
    bytes_sealed: int = 0
    transfer_seconds: float = 0.0


class DecodeEvent(Message):
    """One line of a decode worker's answer.

    Exactly one of: a `token`; `done`, with the figures of the request; `error`.
    """

    token: int | None = None
    done: DecodeFigures | None = None
    error: str | None = None
