"""The router's side of the worker protocol."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator

import httpx

from prefillshare.errors import CapacityError, RequestError, WorkerError
from prefillshare.serving.messages import (
    TOKEN_VARIABLE,
    DecodeEvent,
    DecodeRequest,
    PrefillReply,
    PrefillRequest,
)

_KINDS = {400: RequestError, 503: CapacityError}


class WorkerClient:
    """Talks to one worker; every failure names it and what to do."""

    def __init__(self, what: str, url: str | None, timeout: httpx.Timeout) -> None:
        self._what, self._url = what, url
        token = os.environ.get(TOKEN_VARIABLE, "")
        self._http = httpx.AsyncClient(
            base_url=url or "http://unknown",
            timeout=timeout,
            headers={"authorization": f"Bearer {token}"},
            trust_env=False,
        )

    async def prefill(self, request: PrefillRequest) -> PrefillReply:
        """Ask a prefill worker for a cache."""
        response = await self._send("POST", "/prefill", request.model_dump_json())
        return PrefillReply.model_validate_json(response.content)

    async def cancel(self, transfer_id: str) -> None:
        """Tell a prefill worker that a transfer is not wanted any more."""
        await self._send("DELETE", f"/transfers/{transfer_id}")

    async def stats(self) -> dict[str, float]:
        """The worker's counters."""
        figures: dict[str, float] = (await self._send("GET", "/stats")).json()
        return figures

    async def decode(self, request: DecodeRequest) -> AsyncGenerator[DecodeEvent, None]:
        """Stream a decode worker's events; closing the stream cancels the decoding."""
        finished = False
        try:
            async with self._http.stream(
                "POST", "/decode", content=request.model_dump_json(), headers=_JSON
            ) as response:
                if response.status_code != 200:
                    await response.aread()
                self._check(response)
                async for line in response.aiter_lines():
                    event = DecodeEvent.model_validate_json(line)
                    finished = finished or event.token is None
                    yield event
        except httpx.HTTPError as error:
            raise self._dead(error) from error
        if not finished:
            raise WorkerError(f"the {self._what} at {self._url} ended mid-answer")

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _send(self, method: str, path: str, body: str = "") -> httpx.Response:
        if self._url is None:
            raise WorkerError(f"no address of the {self._what} is configured")
        try:
            response = await self._http.request(
                method, path, content=body, headers=_JSON
            )
        except httpx.HTTPError as error:
            raise self._dead(error) from error
        self._check(response)
        return response

    def _check(self, response: httpx.Response) -> None:
        if response.status_code == 200:
            return
        try:
            message = str(response.json()["error"])
        except (ValueError, KeyError, TypeError):
            message = response.text[:500]
        kind = _KINDS.get(response.status_code, WorkerError)
        raise kind(f"the {self._what} answered {response.status_code}: {message}")

    def _dead(self, error: httpx.HTTPError) -> WorkerError:
        return WorkerError(
            f"the {self._what} at {self._url} cannot be reached "
            f"({type(error).__name__}: {error}); see whether it runs, and start "
            "`prefillshare serve` again if not"
        )


_JSON = {"content-type": "application/json"}
