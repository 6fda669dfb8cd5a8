"""The agent's side: one engine and one arena, and what each worker has of them."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Mapping
from pathlib import Path

from prefillshare.errors import ConfigError, TransferBroken, TransferError
from prefillshare.transfer.agent.advertise import advertised, check_reachable
from prefillshare.transfer.agent.space import Space
from prefillshare.transfer.agent.worker import Worker
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.base import (
    Engine,
    Link,
)
from prefillshare.transfer.shm.wire import check_peer
from prefillshare.transfer.timer import Timer

_log = logging.getLogger(__name__)
_SHORT_SECONDS = 0.05


class Agent:
    """Serves the workers of one user on a Unix socket.

    The engine, over any transport, and the arena are its own from here on. `routes`
    has addresses of peers that are reached by another, and `advertise` says what peers
    are told of this one, see `AgentSettings`. Raises `ConfigError` if the path is
    taken, or peers could not reach the address that they would be told.
    """

    def __init__(
        self,
        path: str,
        engine: Engine,
        arena: Arena,
        routes: Mapping[str, str] | None = None,
        advertise: str | None = None,
    ) -> None:
        try:
            self.address = advertised(engine.address, advertise)
            check_reachable(self.address)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.path, self.engine, self.arena = path, engine, arena
        self._routes = dict(routes or {})
        self.region = engine.register(arena.view)
        self._space = Space(arena.size)
        self._lock = threading.Lock()
        self._links: dict[str, Link] = {}
        self._workers: set[Worker] = set()
        self._closed = threading.Event()
        self.timer = Timer("agent-timer")
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            _remove_left(path)
            self._socket.bind(path)
            self._socket.listen(128)
        except OSError as error:
            self._socket.close()
            raise ConfigError(
                f"{path}: cannot listen there ({error}); remove the file if no agent "
                "runs, or name another"
            ) from error
        os.chmod(path, 0o600)
        self._thread = threading.Thread(target=self._accept, name="agent", daemon=True)
        try:
            self.timer.start()
            self._thread.start()
        except RuntimeError as error:
            self.close()
            raise TransferBroken(
                f"no thread for an agent ({error}); allow more (`ulimit -u`)"
            ) from error

    @property
    def free_bytes(self) -> int:
        """Of the arena."""
        with self._lock:
            return self._space.free

    def allocate(self, size: int) -> int:
        """See `Space.allocate`."""
        with self._lock:
            return self._space.allocate(size)

    def release(self, first: int) -> None:
        """See `Space.release`."""
        with self._lock:
            self._space.release(first)

    def known(self, address: str) -> Link | None:
        """The link to an address, if there is one."""
        with self._lock:
            return self._links.get(address)

    def link(self, address: str, timeout: float, *, check: bool = False) -> Link:
        """The one link to an address, for all workers; `check` that a peer is there."""
        found = self.known(address)
        if found is None or (check and not found.warm):
            made = self.engine.connect(self._routes.get(address, address), timeout)
            with self._lock:
                found = self._links.setdefault(address, made)
            if found is not made:
                made.close()
        return found

    def forget(self, worker: Worker) -> None:
        """A worker is gone, and has nothing any more."""
        with self._lock:
            self._workers.discard(worker)

    def close(self) -> None:
        """End all transfers and let the workers go; may be repeated."""
        with self._lock:
            self._closed.set()
            workers = list(self._workers)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        for worker in workers:
            worker.shut()
        # Before they are waited for: what they wait for ends with the engine.
        self.engine.close()
        for worker in workers:
            worker.join()
        self.timer.close()
        self.region.memory.release()
        with contextlib.suppress(BufferError):
            self.arena.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._socket.accept()
            except OSError as error:
                # Descriptors may be used up for a while: do not spin on that.
                if self._closed.wait(_SHORT_SECONDS):
                    return
                _log.warning("accept failed: %s", error)
                continue
            try:
                check_peer(sock)
                self._serve(sock)
            except (TransferError, RuntimeError, MemoryError) as error:
                _log.warning("a process was turned away: %s", error)
                sock.close()

    def _serve(self, sock: socket.socket) -> None:
        worker = Worker(self, sock)
        with self._lock:
            if self._closed.is_set():
                sock.close()
                return
            worker.start()
            self._workers.add(worker)


def _remove_left(path: str) -> None:
    """Remove the socket of an agent that was killed, where nobody answers."""
    if not Path(path).is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
