"""`serve all`: the router and its workers as processes that live and die together."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from prefillshare.errors import WorkerError
from prefillshare.kv.identity import ModelId
from prefillshare.models.loading import model_layout
from prefillshare.models.record import DecoderRecord
from prefillshare.serving.bridging import weights_of
from prefillshare.serving.messages import TOKEN_VARIABLE
from prefillshare.serving.settings import ServeSettings
from prefillshare.serving.worker import listen

_START_TIMEOUT = 180.0


@dataclass
class Role:
    """A started process; `url` once it is ready."""

    name: str
    process: subprocess.Popen[str]
    url: str = ""


class Cluster:
    """All processes of one configuration, as a context manager.

    Entering returns when the router answers, or early once `stopped` is set; leaving
    ends every process: SIGTERM, then SIGKILL after `stop_timeout`.

    Raises:
        WorkerError: a process did not come up.
    """

    def __init__(
        self, settings: ServeSettings, stopped: threading.Event | None = None
    ) -> None:
        self.settings = settings
        self._stopped = stopped or threading.Event()
        self.roles: list[Role] = []
        self._folder = tempfile.TemporaryDirectory(prefix="prefillshare-")
        environment = {"PREFILLSHARE_LIFELINE": "1", "HF_HUB_OFFLINE": "1"}
        environment[TOKEN_VARIABLE] = secrets.token_hex(32)
        self._environment = {**os.environ, **environment}

    @property
    def url(self) -> str:
        """The router's address."""
        return self.roles[-1].url

    def __enter__(self) -> Self:
        try:
            self._check()
            placed = self._start_workers()
            if not self._stopped.is_set():
                self._wait([self._spawn("router", "router", placed)])
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def check(self) -> list[str]:
        """One sentence about each process that has ended."""
        return [
            f"the {role.name} (pid {role.process.pid}) ended with status {status}"
            for role in self.roles
            if (status := role.process.poll()) is not None
        ]

    def stop(self) -> None:
        """End every process, the router first. Safe to call again."""
        for role in reversed(self.roles):
            if role.process.poll() is None:
                role.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + self.settings.stop_timeout
        for role in self.roles:
            try:
                role.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                role.process.kill()
                role.process.wait()
            for pipe in (role.process.stdin, role.process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        self._folder.cleanup()

    def _check(self) -> None:
        """Find what would fail before seconds are spent on loading models."""
        settings = self.settings
        model_layout(settings.model).require_blocks()
        model_id = ModelId.from_directory(settings.model)
        for decoder in settings.decoders:
            record = DecoderRecord.load(decoder.path)
            record.require_base(model_id)
            weights_of(decoder, record)
            if decoder.model is not None:
                model_layout(decoder.model).require_blocks()
        listen("router", settings.host, settings.port).close()

    def _start_workers(self) -> ServeSettings:
        """Start and await the workers; returns settings with their addresses."""
        anywhere = self.settings.model_copy(update={"port": 0})
        decoders = self.settings.decoders
        started = [
            self._spawn(f"decode worker {d.name!r}", "decode", anywhere, d.name)
            for d in decoders
        ]
        prefill_url = None
        if any(DecoderRecord.load(d.path).prefill == "shared" for d in decoders):
            prefill = self._spawn("prefill worker", "prefill", anywhere)
            self._wait([prefill])
            prefill_url = prefill.url
        self._wait(started)
        placed = [
            d.model_copy(update={"url": role.url})
            for d, role in zip(decoders, started, strict=True)
        ]
        return self.settings.model_copy(
            update={"decoders": placed, "prefill_url": prefill_url}
        )

    def _spawn(
        self, name: str, role: str, settings: ServeSettings, decoder: str | None = None
    ) -> Role:
        config = Path(self._folder.name) / f"{len(self.roles)}.yaml"
        # JSON is YAML.
        config.write_text(settings.model_dump_json())
        command = [sys.executable, "-m", "prefillshare", "serve", role]
        command += ["--config", str(config)]
        command += ["--decoder", decoder] if decoder else []
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
            # Ctrl-C reaches the launcher alone, which then ends the others in order.
            start_new_session=True,
        )
        started = Role(name, process)
        self.roles.append(started)
        return started

    def _wait(self, roles: list[Role]) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        for role in roles:
            assert role.process.stdout is not None
            line = self._read_line(role.process.stdout, deadline)
            if line:
                role.url = json.loads(line)["url"]
            elif not self._stopped.is_set():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    role.process.wait(1.0)
                raise WorkerError(
                    f"the {role.name} did not start (exit status "
                    f"{role.process.poll()}); what it printed above says why"
                )

    def _read_line(self, stream: IO[str], deadline: float) -> str:
        """One line; empty at the stream's end, the deadline or a stop."""
        lines: list[str] = []
        reader = threading.Thread(
            target=lambda: lines.append(stream.readline()), daemon=True
        )
        reader.start()
        while reader.is_alive() and time.monotonic() < deadline:
            reader.join(0.2)
            if self._stopped.is_set():
                return ""
        return lines[0] if lines else ""
