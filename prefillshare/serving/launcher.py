"""`serve all`: the router and its workers as processes that live and die together."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from prefillshare.kv.identity import ModelId
from prefillshare.models.loading import model_layout
from prefillshare.models.record import DecoderRecord
from prefillshare.policy.placement import Side
from prefillshare.serving.bridging import weights_of
from prefillshare.serving.messages import TOKEN_VARIABLE
from prefillshare.serving.processes import Processes, Role, Stopped
from prefillshare.serving.settings import ServeSettings
from prefillshare.serving.sites import check_certificates, start_agents
from prefillshare.serving.worker import listen


class Cluster:
    """All processes of one configuration, as a context manager.

    Entering returns when the router answers, or early once `stopped` is set; leaving
    ends every process: SIGTERM, then SIGKILL after `stop_timeout`.

    Attributes:
        token: what the workers ask of who talks to them.

    Raises:
        ConfigError: a port is taken, or a certificate is another site's.
        WorkerError: a process did not come up.
    """

    def __init__(
        self, settings: ServeSettings, stopped: threading.Event | None = None
    ) -> None:
        self.settings = settings
        self._stopped = stopped or threading.Event()
        self._folder = tempfile.TemporaryDirectory(prefix="prefillshare-")
        self.token = secrets.token_hex(32)
        # Agents move what workers hold, so they are there before and after them.
        self._carriers = Processes(self._stopped, {})
        variables = {TOKEN_VARIABLE: self.token, "HF_HUB_OFFLINE": "1"}
        self._servers = Processes(self._stopped, variables)

    @property
    def roles(self) -> list[Role]:
        """All processes, the router last."""
        return self._carriers.roles + self._servers.roles

    @property
    def url(self) -> str:
        """The router's address."""
        return self.roles[-1].url

    def __enter__(self) -> Self:
        try:
            self._check()
            with contextlib.suppress(Stopped):
                placed = self._start_workers()
                self._servers.await_ready(self._spawn("router", "router", placed))
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
        return self._carriers.ended() + self._servers.ended()

    def stop(self) -> None:
        """End every process, the router first. Safe to call again."""
        self._servers.stop(self.settings.stop_timeout)
        self._carriers.stop(self.settings.stop_timeout)
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
        if settings.sites is not None:
            check_certificates(settings.sites)
        listen("router", settings.host, settings.port).close()

    def _start_workers(self) -> ServeSettings:
        """Start and await the workers; returns settings with their addresses."""
        settings = self.settings
        records = (DecoderRecord.load(decoder.path) for decoder in settings.decoders)
        shared = any(record.prefill == "shared" for record in records)
        agents: dict[Side, Path] = {}
        if shared:
            agents = start_agents(settings, Path(self._folder.name), self._carriers)
        there = {"port": 0, "agent": agents.get("decode")}
        anywhere = settings.model_copy(update=there)
        started = [
            self._spawn(f"decode worker {d.name!r}", "decode", anywhere, d.name)
            for d in settings.decoders
        ]
        prefill_url = None
        if shared:
            here = {"port": 0, "agent": agents["prefill"]}
            prefill = self._spawn(
                "prefill worker", "prefill", settings.model_copy(update=here)
            )
            self._servers.await_ready(prefill)
            prefill_url = prefill.url
        self._servers.await_ready(*started)
        placed = [
            d.model_copy(update={"url": role.url})
            for d, role in zip(settings.decoders, started, strict=True)
        ]
        return settings.model_copy(
            update={"decoders": placed, "prefill_url": prefill_url}
        )

    def _spawn(
        self, name: str, role: str, settings: ServeSettings, decoder: str | None = None
    ) -> Role:
        config = Path(self._folder.name) / f"{len(self.roles)}.yaml"
        # JSON is YAML.
        config.write_text(settings.model_dump_json())
        arguments = ["serve", role, "--config", str(config)]
        arguments += ["--decoder", decoder] if decoder else []
        return self._servers.spawn(name, "prefillshare", arguments)
