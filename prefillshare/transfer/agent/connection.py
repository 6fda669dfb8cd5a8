"""A worker's connection to the agent of its host: questions and what it tells."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from prefillshare.errors import (
    TransferBroken,
    TransferClosed,
    TransferError,
    TransferTimeout,
)
from prefillshare.transfer.agent.messages import (
    MALFORMED,
    Message,
    Messenger,
    error_from,
    receive_arena,
)
from prefillshare.transfer.pending import again
from prefillshare.transfer.shm.wire import check_peer

# For an answer of the agent, beyond the time that a question itself may take.
ANSWER_SECONDS = 30.0


class Connection:
    """Reaches the agent that listens on `path`, and maps its arena.

    After `start`, `told` is called with what the agent says unasked, and `over`, at the
    end, with what every further question raises; on a thread of the connection. Raises
    `TransferBroken` if no agent is there, `TransferRefused` if it is another user's.
    """

    def __init__(
        self,
        path: str,
        timeout: float,
        told: Callable[[Message], None],
        over: Callable[[TransferError], None],
    ) -> None:
        self._told, self._over = told, over
        self._sock = socket.socket(socket.AF_UNIX)
        try:
            self._sock.settimeout(timeout)
            self._sock.connect(path)
            check_peer(self._sock)
            self.arena = receive_arena(self._sock)
            self._messenger = Messenger(self._sock)
            self.address = str(self._messenger.receive().body.get("address"))
            self._sock.settimeout(None)
        except (OSError, TransferError) as error:
            self._sock.close()
            if isinstance(error, TransferError):
                raise
            raise TransferBroken(
                f"{path}: no agent answers there ({error}); start one with "
                "`prefillshare serve agent`"
            ) from error
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._asked: dict[int, Future[Mapping[str, Any]]] = {}
        self._closing = False
        self._gone: TransferError | None = None
        self._thread = threading.Thread(target=self._run, name="agent", daemon=True)

    def start(self) -> None:
        """Begin to hear the agent."""
        self._thread.start()

    def check(self) -> None:
        """Raise why the connection is over, if it is."""
        if self._gone is not None:
            raise again(self._gone)

    def ask(
        self, body: Mapping[str, Any], blob: bytes = b"", timeout: float = 0.0
    ) -> Mapping[str, Any]:
        """Put a question to the agent; raises what it answers with.

        `TransferTimeout` if it does not answer within `timeout` and some seconds more.
        """
        number, answer = next(self._numbers), Future[Mapping[str, Any]]()
        with self._lock:
            self.check()
            self._asked[number] = answer
        try:
            self._messenger.send({"id": number, **body}, blob, ANSWER_SECONDS)
            reply = answer.result(timeout + ANSWER_SECONDS)
        except TimeoutError as error:
            raise TransferTimeout(
                f"the agent has not answered for {timeout + ANSWER_SECONDS} s; see "
                "whether it hangs, and start it again if so"
            ) from error
        finally:
            with self._lock:
                self._asked.pop(number, None)
        if "error" in reply:
            raise error_from(reply["error"])
        return reply

    def tell(self, body: Mapping[str, Any]) -> None:
        """Have the agent do something, without waiting for it."""
        with contextlib.suppress(TransferError):
            self._messenger.post(body)
            self._messenger.flush()

    def close(self) -> None:
        """Have the agent take everything back, and end; may be repeated."""
        self._closing = True
        with contextlib.suppress(TransferError):
            self.ask({"do": "close"})
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._messenger.close()

    def _run(self) -> None:
        try:
            while True:
                self._hear(self._messenger.receive())
        except (TransferError, *MALFORMED) as error:
            gone: TransferError = TransferBroken(f"the agent is gone: {error}")
        if self._closing:
            gone = TransferClosed("the engine is closed; make a new one")
        with self._lock:
            self._gone = gone
            asked, self._asked = list(self._asked.values()), {}
        for answer in asked:
            answer.set_exception(again(gone))
        self._over(gone)

    def _hear(self, message: Message) -> None:
        if "id" not in message.body:
            self._told(message)
            return
        with self._lock:
            answer = self._asked.pop(int(message.body["id"]), None)
        # Who asked may have given up.
        if answer is not None:
            answer.set_result(message.body)
