"""A role that says it is ready can be asked at once."""

from __future__ import annotations

import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from fastapi import FastAPI

from prefillshare.serving.worker import serve_app


def test_a_role_listens_before_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def run(_: Any, sockets: list[socket.socket]) -> None:
        """The server's place, before it has begun to serve."""
        url = urlsplit(json.loads(capsys.readouterr().out)["url"])
        assert url.hostname is not None and url.port is not None
        with socket.create_connection((url.hostname, url.port), timeout=5):
            asked.append(url.hostname)
        sockets[0].close()

    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.delenv("PREFILLSHARE_LIFELINE", raising=False)
    serve_app(FastAPI(), "router", "127.0.0.1", 0)
    assert asked == ["127.0.0.1"]
