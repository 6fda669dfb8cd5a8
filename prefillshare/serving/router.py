"""The router: one prompt laid out, tokenised and prefilled once, then decoded."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import anyio
import httpx
from jinja2 import TemplateError

from prefillshare.errors import (
    ContextLengthError,
    DataError,
    RequestError,
    UnknownModelError,
    WorkerError,
)
from prefillshare.kv.identity import ModelId
from prefillshare.models.loading import load_tokenizer
from prefillshare.models.prompt import Prompt
from prefillshare.serving.bridging import weights_of
from prefillshare.serving.client import WorkerClient
from prefillshare.serving.lanes import Lane
from prefillshare.serving.messages import (
    DecodeEvent,
    DecodeFigures,
    DecodeRequest,
    PrefillReply,
    PrefillRequest,
)
from prefillshare.serving.openai import ChatRequest
from prefillshare.serving.settings import ServeSettings


@dataclass(frozen=True)
class Piece:
    """What a stream yields: text, and with the last piece why it ended."""

    text: str
    finish: str | None = None


class Generation:
    """One accepted request: its prompt, and the counts as they become known."""

    def __init__(
        self,
        router: Router,
        lane: Lane,
        request: ChatRequest,
        prompt: Prompt,
        limit: int,
    ) -> None:
        self.request_id = uuid.uuid4().hex
        self.lane, self.request = lane, request
        self.prompt, self.limit = prompt, limit
        self.errand = lane.errand(prompt)
        self.prefill: PrefillReply | None = None
        self.figures: DecodeFigures | None = None
        self.completion_tokens = 0
        self._router = router

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that a prefix cache held."""
        if self.prefill is not None:
            return self.prefill.cached_tokens
        return self.figures.cached_tokens if self.figures else 0

    def prefill_request(self, model_id: ModelId) -> PrefillRequest:
        """What the prefill worker is asked."""
        return PrefillRequest(
            request_id=self.request_id,
            model_id=model_id.digest,
            token_ids=list(self.errand.token_ids),
            bridge=self.errand.order_for("prefill"),
        )

    def decode_request(self) -> DecodeRequest:
        """What the decode worker is asked."""
        return DecodeRequest(
            request_id=self.request_id,
            token_ids=list(self.prompt.token_ids),
            boundary=self.prompt.boundary,
            prefill=self.prefill,
            bridge=self.errand.order_for("decode"),
            max_tokens=self.limit,
            stop_ids=self.lane.stop_ids,
            temperature=self.request.temperature,
            seed=self.request.seed,
        )

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Prefill (where shared), then stream the text."""
        async with aclosing(self._router.generate(self)) as pieces:
            async for piece in pieces:
                yield piece


class Router:
    """Knows how each decoder is asked, and the workers' addresses."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.model_id = ModelId.from_directory(settings.model)
        template = load_tokenizer(settings.model)
        self.lanes = {d.name: Lane(settings, d, template) for d in settings.decoders}
        for decoder in settings.decoders:
            record = self.lanes[decoder.name].record
            record.require_base(self.model_id)
            weights_of(decoder, record)
        timeout = httpx.Timeout(settings.request_timeout, connect=5.0)
        self.prefiller = WorkerClient("prefill worker", settings.prefill_url, timeout)
        self.decoders = {
            d.name: WorkerClient(f"decode worker {d.name!r}", d.url, timeout)
            for d in settings.decoders
        }

    def accept(self, request: ChatRequest) -> Generation:
        """Lay out and tokenise the prompt.

        Raises:
            UnknownModelError: no decoder has that name.
            ContextLengthError: the prompt leaves no room for the answer.
            RequestError: the chat template refuses the messages.
        """
        lane = self.lanes.get(request.model)
        if lane is None:
            raise UnknownModelError(
                f"the model {request.model!r} is not served here; served are "
                f"{', '.join(sorted(self.lanes))}"
            )
        messages = [m.model_dump() for m in request.messages]
        try:
            prompt = lane.lay_out(messages)
        except (DataError, TemplateError) as error:
            raise RequestError(str(error)) from error
        room = lane.context_tokens - prompt.longest
        limit = request.token_limit or min(256, max(room, 1))
        if limit > room:
            raise ContextLengthError(
                f"the prompt has {prompt.longest} tokens and {limit} more are "
                f"asked for, but the context is {lane.context_tokens}; shorten the "
                "messages or lower max_tokens"
            )
        return Generation(self, lane, request, prompt, limit)

    async def generate(self, generation: Generation) -> AsyncGenerator[Piece, None]:
        """The text of an accepted request, piece by piece.

        Raises:
            WorkerError: a worker is dead or failed; what it held is released.
        """
        lane = generation.lane
        if lane.record.prefill == "shared":
            request = generation.prefill_request(self.model_id)
            generation.prefill = await self.prefiller.prefill(request)
        text, worker = _Detokenizer(lane), self.decoders[generation.request.model]
        finish = "length"
        try:
            asked = generation.decode_request()
            async with aclosing(worker.decode(asked)) as events:
                async for event in events:
                    token = self._token(generation, event)
                    if token in lane.stop_ids:
                        finish = "stop"
                    elif token is not None:
                        yield Piece(text.push(token))
        finally:
            if generation.prefill is not None and generation.figures is None:
                # Shielded: a client that leaves cancels this very task.
                with anyio.CancelScope(shield=True):
                    await self._cancel(generation.prefill)
        yield Piece(text.rest(), finish)

    async def _cancel(self, reply: PrefillReply) -> None:
        """Free a loan that was perhaps not used; its lease ends it otherwise."""
        try:
            await self.prefiller.cancel(reply.grant.grant_id)
        except WorkerError:
            pass

    @staticmethod
    def _token(generation: Generation, event: DecodeEvent) -> int | None:
        if event.error is not None:
            raise WorkerError(event.error)
        if event.done is not None:
            generation.figures = event.done
            return None
        generation.completion_tokens += 1
        return event.token

    async def close(self) -> None:
        """Close the connections to the workers."""
        for client in (self.prefiller, *self.decoders.values()):
            await client.close()


class _Detokenizer:
    """Text as soon as it is whole: a character's last byte may be a token away."""

    def __init__(self, lane: Lane) -> None:
        self._decode = lane.tokenizer.decode
        self._ids: list[int] = []
        self._shown = ""

    def push(self, token: int) -> str:
        self._ids.append(token)
        text = self._text()
        return "" if text.endswith("�") else self._advance(text)

    def rest(self) -> str:
        return self._advance(self._text())

    def _text(self) -> str:
        return str(self._decode(self._ids, skip_special_tokens=True))

    def _advance(self, text: str) -> str:
        fresh, self._shown = text[len(self._shown) :], text
        return fresh
