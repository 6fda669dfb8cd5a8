"""The router's HTTP interface: OpenAI's chat completions."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from prefillshare.errors import (
    CapacityError,
    ContextLengthError,
    PrefillShareError,
    RequestError,
    UnknownModelError,
)
from prefillshare.serving.openai import (
    ChatRequest,
    Completion,
    error_body,
    model_list,
    usage,
)
from prefillshare.serving.router import Generation, Piece, Router
from prefillshare.serving.settings import ServeSettings

# The first that fits: status, type and code as OpenAI names them.
_ERRORS: tuple[tuple[type[PrefillShareError], int, str, str | None], ...] = (
    (UnknownModelError, 404, "invalid_request_error", "model_not_found"),
    (ContextLengthError, 400, "invalid_request_error", "context_length_exceeded"),
    (RequestError, 400, "invalid_request_error", None),
    (CapacityError, 503, "server_error", "overloaded"),
    (PrefillShareError, 503, "server_error", "worker_failed"),
)


def router_app(settings: ServeSettings) -> FastAPI:
    """The app that clients talk to."""
    router = Router(settings)
    created = int(time.time())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await router.close()

    app = FastAPI(title="prefillshare", lifespan=lifespan)
    _map_errors(app)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return model_list(sorted(router.lanes), created)

    @app.get("/stats")
    async def stats() -> dict[str, Any]:
        shared = any(x.record.prefill == "shared" for x in router.lanes.values())
        return {
            "prefill": await router.prefiller.stats() if shared else None,
            "decoders": {n: await d.stats() for n, d in router.decoders.items()},
        }

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: ChatRequest, http: Request) -> Response:
        generation = router.accept(request)
        completion = Completion(generation.request_id, request.model)
        if not request.stream:
            return JSONResponse(await _whole(generation, completion, http))
        pieces = generation.pieces()
        # A failure before the first token still gets a status code of its own.
        first = await anext(pieces)
        lines = _events(first, pieces, generation, completion)
        return StreamingResponse(lines, media_type="text/event-stream")

    return app


async def _whole(
    generation: Generation, completion: Completion, http: Request
) -> dict[str, Any]:
    """The whole answer; a client that leaves meanwhile ends the generation."""
    text, finish = "", "length"
    async with anyio.create_task_group() as watching:
        watching.start_soon(_until_gone, http, watching.cancel_scope)
        failure: PrefillShareError | None = None
        try:
            async with aclosing(generation.pieces()) as pieces:
                async for piece in pieces:
                    text += piece.text
                    finish = piece.finish or finish
        except PrefillShareError as error:
            # Kept out of the group, which would wrap it.
            failure = error
        watching.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return completion.body(text, finish, _usage(generation))


async def _until_gone(http: Request, scope: anyio.CancelScope) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _events(
    first: Piece,
    pieces: AsyncGenerator[Piece, None],
    generation: Generation,
    completion: Completion,
) -> AsyncIterator[str]:
    """Server-sent events; an error mid-stream is an event with OpenAI's error body."""
    options = generation.request.stream_options
    try:
        yield _event(completion.chunk({"role": "assistant", "content": first.text}))
        if first.finish:
            yield _event(completion.chunk({}, first.finish))
        async for piece in pieces:
            if piece.text:
                yield _event(completion.chunk({"content": piece.text}))
            if piece.finish:
                yield _event(completion.chunk({}, piece.finish))
        if options is not None and options.include_usage:
            yield _event(completion.usage_chunk(_usage(generation)))
        yield "data: [DONE]\n\n"
    except PrefillShareError as error:
        yield _event(_error(error)[1])
    finally:
        await pieces.aclose()


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"


def _usage(generation: Generation) -> dict[str, Any]:
    prompt = len(generation.prompt.token_ids)
    # The prefill module counts tokens of its own: of those, the same share of these.
    share = generation.prompt.boundary / len(generation.errand.token_ids)
    cached = int(generation.cached_tokens * share)
    return usage(prompt, generation.completion_tokens, cached)


def _error(error: PrefillShareError) -> tuple[int, dict[str, Any]]:
    kind = next(row for row in _ERRORS if isinstance(error, row[0]))
    return kind[1], error_body(str(error), kind[2], kind[3])


def _map_errors(app: FastAPI) -> None:
    @app.exception_handler(PrefillShareError)
    async def ours(_: Request, error: PrefillShareError) -> JSONResponse:
        status, body = _error(error)
        return JSONResponse(body, status)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        match first["type"]:
            case "json_invalid":
                message = f"the body is not valid JSON (character {where})"
            case "extra_forbidden":
                message = f"{where} is not supported here; leave it out"
            case _:
                message = f"{where or 'body'}: {first['msg']}"
        return JSONResponse(error_body(message, "invalid_request_error"), 400)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        body = error_body(str(error.detail), "invalid_request_error")
        return JSONResponse(body, error.status_code)

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> JSONResponse:
        message = f"the router failed ({type(error).__name__}); its log says where"
        return JSONResponse(error_body(message, "server_error"), 500)
