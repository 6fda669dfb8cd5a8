"""A relay that keeps what passes, both ways."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prefillshare.transfer.tcp.sockets import format_address, parse_address


class Tap:
    """What passed on the way to an engine, and where that way begins."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._seen = bytearray()

    @property
    def seen(self) -> bytes:
        """Everything so far, of all connections."""
        with self._lock:
            return bytes(self._seen)

    def add(self, data: bytes) -> None:
        """Keep what passes."""
        with self._lock:
            self._seen += data


@contextmanager
def tapped(target: str) -> Iterator[Tap]:
    """Connections to the tap's address reach the target's; all ended afterwards."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(parse_address(target)) as far:
                back = threading.Thread(target=_carry, args=(far, self.request, tap))
                back.start()
                _carry(self.request, far, tap)
                back.join()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = False

    with Server(("127.0.0.1", 0), Handler) as server:
        tap = Tap(format_address("127.0.0.1", server.server_address[1]))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield tap
        finally:
            server.shutdown()
            thread.join()


def _carry(source: socket.socket, sink: socket.socket, tap: Tap) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            tap.add(data)
            sink.sendall(data)
    # Either end's end is the other's.
    for sock in (source, sink):
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
