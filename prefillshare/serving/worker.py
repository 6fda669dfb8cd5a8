"""What prefill and decode workers share: their HTTP frame and their one thread."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from prefillshare.errors import (
    CapacityError,
    ConfigError,
    IdentityError,
    PrefillShareError,
    RequestError,
)
from prefillshare.lifeline import announce, follow_launcher
from prefillshare.serving.messages import TOKEN_VARIABLE

T = TypeVar("T")

_log = logging.getLogger(__name__)

_STATUS = ((RequestError, 400), (IdentityError, 409), (CapacityError, 503))


class ComputeThread:
    """Runs model code one call at a time, off the event loop."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(1, "compute", lambda: _limit_threads(threads))

    async def run(self, call: Callable[[], T]) -> T:
        """The result of `call`, computed on the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def submit(self, call: Callable[[], None]) -> None:
        """Queue `call` without waiting for it; a failure is logged."""
        self._pool.submit(call).add_done_callback(_log_failure)

    def close(self) -> None:
        """Finish what is queued and end the thread."""
        self._pool.shutdown(wait=True)


def worker_app(close: Callable[[], None]) -> FastAPI:
    """An app that asks every caller for the worker token and maps our errors."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        close()

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    token = os.environ.get(TOKEN_VARIABLE)
    if not token:
        raise ConfigError(
            f"{TOKEN_VARIABLE} is not set; set it to one secret for the router and its "
            "workers, or start them all with `prefillshare serve all`"
        )
    expected = f"Bearer {token}".encode()

    @app.middleware("http")
    async def authenticate(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, expected):
            message = f"the worker token is wrong or missing; set {TOKEN_VARIABLE}"
            return JSONResponse({"error": message}, 401)
        return await call_next(request)

    @app.exception_handler(PrefillShareError)
    async def failed(_: Request, error: PrefillShareError) -> JSONResponse:
        status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
        return JSONResponse({"error": str(error)}, status)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def listen(role: str, host: str, port: int) -> socket.socket:
    """A bound socket; `PrefillShareError` names a port that is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise PrefillShareError(
            f"the {role} cannot listen on {host}:{port}: {error}; choose another port "
            "(key `port`)"
        ) from error
    return bound


def serve_app(app: FastAPI, role: str, host: str, port: int) -> None:
    """Serve until SIGINT, SIGTERM or the launcher's end; announces where."""
    bound = listen(role, host, port)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)

    def stop() -> None:
        server.should_exit = True

    follow_launcher(stop)
    # Who reads the line below may ask at once: the server takes over what waits.
    bound.listen(128)
    shown = f"[{host}]" if ":" in host else host
    announce(role, f"http://{shown}:{bound.getsockname()[1]}")
    server.run(sockets=[bound])


def _limit_threads(threads: int) -> None:
    if threads:
        torch.set_num_threads(threads)


def _log_failure(done: Future[None]) -> None:
    error = None if done.cancelled() else done.exception()
    if error is not None:
        _log.error("a queued call failed", exc_info=error)
