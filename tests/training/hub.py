"""A stub of the Hugging Face hub: what uploading small files calls of its HTTP API."""

from __future__ import annotations

import base64
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_anna"
USER = "anna"


class Hub(ThreadingHTTPServer):
    """Keeps what is uploaded: `files[repository][path]`, `private[repository]`.

    Attributes:
        role: what the token may do.
        accepts: how many commits are accepted before all are refused.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.role = "write"
        self.accepts = 100
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        if self.path == "/api/whoami-v2" and self._is_known():
            token = {"role": self.server.role}
            self._answer(200, {"name": USER, "auth": {"accessToken": token}})
        else:
            self._answer(401, {"error": f"not for you: {self.path}"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        parts = self.path.strip("/").split("/")
        if not self._is_known():
            self._answer(401, {"error": "nobody knows this token"})
        elif parts == ["api", "repos", "create"]:
            self._create(json.loads(body))
        elif parts == ["api", "validate-yaml"]:
            self._answer(200, {"errors": [], "warnings": []})
        elif parts[4] == "preupload":
            files = json.loads(body)["files"]
            mode = {"uploadMode": "regular", "shouldIgnore": False}
            self._answer(200, {"files": [{"path": f["path"], **mode} for f in files]})
        elif parts[4] == "commit":
            self._commit(f"{parts[2]}/{parts[3]}", body)

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        url = {"url": f"{self.server.url}/{name}"}
        if name in self.server.private:
            self._answer(409, url)
            return
        self.server.private[name] = wanted["visibility"] == "private"
        self._answer(200, url)

    def _commit(self, repository: str, lines: str) -> None:
        if len(self.server.files) >= self.server.accepts:
            self._answer(403, {"error": "the storage quota is used up"})
            return
        operations = [json.loads(line) for line in lines.splitlines()]
        self.server.files[repository] = {
            each["value"]["path"]: base64.b64decode(each["value"]["content"])
            for each in operations
            if each["key"] == "file"
        }
        url = f"{self.server.url}/{repository}/commit/1"
        self._answer(200, {"commitUrl": url, "commitOid": "1"})

    def _is_known(self) -> bool:
        return self.headers["Authorization"] == f"Bearer {TOKEN}"

    def _answer(self, status: int, document: Any) -> None:
        text = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
