"""The OpenAI chat completions protocol: requests in, bodies and chunks out."""

from __future__ import annotations

import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class ChatMessage(BaseModel):
    """One message of the conversation; content is plain text."""

    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "user", "assistant", "developer", "tool"]
    content: str


class StreamOptions(BaseModel):
    """Whether a last chunk carries the usage."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """The part of the protocol that is served; the rest is refused by name.

    Put the shared context first and the transcript after it: agents share a prefix.
    """

    model_config = ConfigDict(extra="forbid")
    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(0.0, ge=0.0, le=2.0)
    seed: int | None = Field(None, ge=0, lt=2**63)
    n: Literal[1] = 1
    user: str | None = None

    @field_validator("temperature")
    @classmethod
    def _not_tiny(cls, value: float) -> float:
        if 0.0 < value < 0.01:
            raise ValueError(f"temperature {value} is neither 0 nor at least 0.01")
        return value

    @property
    def token_limit(self) -> int | None:
        """The most tokens to generate, by either of its names."""
        return self.max_completion_tokens or self.max_tokens


class Completion:
    """Builds the bodies of one completion."""

    def __init__(self, request_id: str, model: str) -> None:
        self._frame = {
            "id": f"chatcmpl-{request_id}",
            "created": int(time.time()),
            "model": model,
        }

    def body(self, text: str, finish: str, usage: dict[str, Any]) -> dict[str, Any]:
        """The whole answer."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        return {
            **self._frame,
            "object": "chat.completion",
            "choices": [{**choice, "logprobs": None}],
            "usage": usage,
        }

    def chunk(self, delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
        """One piece of a streamed answer."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return self._chunk([{**choice, "logprobs": None}])

    def usage_chunk(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The last piece of a stream that asked for usage."""
        return {**self._chunk([]), "usage": usage}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._frame, "object": "chat.completion.chunk", "choices": choices}


def usage(prompt: int, completion: int, cached: int) -> dict[str, Any]:
    """Token counts; `cached` prompt tokens came from a prefix cache."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def error_body(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """OpenAI's error body."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def model_list(names: list[str], created: int) -> dict[str, Any]:
    """The answer of `/v1/models`."""
    data = [
        {"id": name, "object": "model", "created": created, "owned_by": "prefillshare"}
        for name in names
    ]
    return {"object": "list", "data": data}
