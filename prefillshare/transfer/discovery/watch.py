"""Changes of a directory, as they are noticed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from prefillshare.errors import DirectoryError
from prefillshare.transfer.discovery.base import Directory, Entry
from prefillshare.transfer.secure.identity import PeerIdentity

_log = logging.getLogger(__name__)
Told = Callable[[Mapping[PeerIdentity, Entry]], None]


class Watch:
    """Looks every so many seconds, until `close`.

    `told` gets all entries at first and after each change, on a thread of the watch; a
    peer that was started again has another `engine`. While the directory cannot be
    used, `failure` says why, and what was told last stands.
    """

    def __init__(
        self, directory: Directory, told: Told, every_seconds: float = 5.0
    ) -> None:
        self._directory, self._told, self._every = directory, told, every_seconds
        self._failure: DirectoryError | None = None
        self._last: Mapping[PeerIdentity, Entry] | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> DirectoryError | None:
        """Why the last look failed, if it did."""
        return self._failure

    def close(self) -> None:
        """Look no more. May be repeated."""
        self._closed.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._look()
            self._closed.wait(self._every)

    def _look(self) -> None:
        try:
            found = self._directory.entries()
        except DirectoryError as error:
            if self._failure is None:
                _log.warning("what is known of peers may be old: %s", error)
            self._failure = error
            return
        self._failure = None
        if found == self._last:
            return
        self._last = found
        try:
            self._told(found)
        except Exception:
            _log.exception("what was told of a change failed")
