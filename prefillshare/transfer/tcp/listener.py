"""Where peers connect: who they are is known before anything else is done for them."""

from __future__ import annotations

import contextlib
import hmac
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable

from prefillshare.errors import (
    ConfigError,
    TransferBroken,
    TransferError,
    TransferRefused,
)
from prefillshare.transfer.base import CAPABILITY_BYTES, ID_BYTES
from prefillshare.transfer.secure.channel import Channel, PlainChannel, TlsChannel
from prefillshare.transfer.secure.contexts import Security
from prefillshare.transfer.tcp import dial
from prefillshare.transfer.tcp.outcomes import fail_of
from prefillshare.transfer.tcp.session import Agreed, Session
from prefillshare.transfer.tcp.settings import TcpSettings
from prefillshare.transfer.tcp.sockets import (
    format_address,
    listen,
    receive_all,
    shut,
    tune,
    watch,
)
from prefillshare.transfer.timer import Timer

_log = logging.getLogger(__name__)
# Connections whose peer is not known yet, at most.
_STRANGERS = 64
_TLS = 0x16
_FAREWELL_SECONDS = 0.5
_SHORT_SECONDS = 0.05

Welcome = Callable[[Channel, Agreed], Session]


class Listener:
    """Accepts control connections, and the streams of sessions that they began.

    `welcome` makes a session of a peer that is known, and starts it. Raises
    `ConfigError` if the address cannot be bound.
    """

    def __init__(
        self,
        host: str,
        port: int,
        engine: bytes,
        settings: TcpSettings,
        security: Security | None,
        timer: Timer,
        welcome: Welcome,
    ) -> None:
        self._engine, self._settings, self._security = engine, settings, security
        self._timer, self._welcome = timer, welcome
        try:
            self._sock = listen(host, port, settings.buffer_bytes)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"cannot listen on {host}:{port} ({error}); choose another address"
            ) from error
        self.address = format_address(host, self._sock.getsockname()[1])
        self._strangers = threading.Semaphore(_STRANGERS)
        self._lock = threading.Lock()
        self._waiting: dict[threading.Thread, socket.socket] = {}
        self._sessions: dict[bytes, Session] = {}
        self._ending: list[Session] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=self._accept, name="kv-accept", daemon=True
        )

    def start(self) -> None:
        """Begin to accept."""
        self._thread.start()

    def forget(self, session: Session) -> None:
        """A session is over; its threads are about to end."""
        with self._lock:
            self._sessions.pop(session.agreed.session, None)
            self._ending = [each for each in self._ending if each.running] + [session]

    def close(self) -> list[Session]:
        """Accept no more; the sessions that are there, for the caller to close."""
        with self._lock:
            self._closed.set()
            waiting = dict(self._waiting)
        shut(self._sock)
        for sock in waiting.values():
            shut(sock)
        for thread in (self._thread, *waiting):
            if thread.ident is not None:
                thread.join()
        self._sock.close()
        with self._lock:
            return [*self._sessions.values(), *self._ending]

    def _accept(self) -> None:
        while True:
            self._strangers.acquire()
            try:
                sock, _ = self._sock.accept()
            except (OSError, MemoryError) as error:
                self._strangers.release()
                # Descriptors may be used up for a while: do not spin on that.
                if self._closed.wait(_SHORT_SECONDS):
                    return
                _log.warning("accept failed: %s", error)
                continue
            try:
                if not self._admit(sock):
                    return
            except (RuntimeError, MemoryError) as error:
                sock.close()
                self._strangers.release()
                _log.warning("no thread or memory to meet a peer: %s", error)
                self._closed.wait(_SHORT_SECONDS)

    def _admit(self, sock: socket.socket) -> bool:
        thread = threading.Thread(target=self._meet, args=(sock,), daemon=True)
        with self._lock:
            if self._closed.is_set():
                sock.close()
                return False
            thread.start()
            self._waiting[thread] = sock
            return True

    def _meet(self, sock: socket.socket) -> None:
        kept, deadline = False, time.monotonic() + self._settings.handshake_seconds
        try:
            with dial.within(self._timer, sock, self._settings.handshake_seconds):
                kept = self._greet(sock, deadline)
        except (OSError, TransferError) as error:
            _log.warning("a peer was turned away: %s", error)
            _farewell(sock, min(deadline, time.monotonic() + _FAREWELL_SECONDS))
        except (RuntimeError, MemoryError) as error:
            _log.warning("no thread or memory to meet a peer: %s", error)
        finally:
            with self._lock:
                self._waiting.pop(threading.current_thread(), None)
                if not kept:
                    sock.close()
            self._strangers.release()

    def _greet(self, sock: socket.socket, deadline: float) -> bool:
        sock.settimeout(self._settings.handshake_seconds)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        first = sock.recv(1, socket.MSG_PEEK)
        if not first:
            return False
        if first == dial.STREAM_MAGIC[:1]:
            return self._take_stream(sock)
        watch(sock, self._settings.dead_seconds)
        tls = self._security if first[0] == _TLS else None
        channel: Channel = PlainChannel(sock)
        if tls is not None:
            channel = TlsChannel(sock, tls.server, server_side=True, deadline=deadline)
        try:
            return self._take_session(channel, sock)
        except TransferError as error:
            channel.send(fail_of(0, error).encode())
            raise

    def _take_session(self, channel: Channel, sock: socket.socket) -> bool:
        peer = dial.read_hello(channel)
        who = None
        if self._security is not None:
            if not isinstance(channel, TlsChannel):
                raise TransferRefused(
                    "this engine wants TLS; give yours a certificate "
                    "(`prefillshare keys issue`)"
                )
            who = self._security.check(channel.peer_certificate)
        wanted = dial.wants_sealed(self._settings, self._security, who)
        agreed = Agreed(
            secrets.token_bytes(ID_BYTES),
            secrets.token_bytes(CAPABILITY_BYTES),
            peer.engine,
            wanted or bool(peer.sealed),
        )
        with self._lock:
            if len(self._sessions) >= self._settings.max_sessions:
                raise TransferRefused(
                    f"{len(self._sessions)} peers are connected, which is all that "
                    "`max_sessions` allows"
                )
            session = self._welcome(channel, agreed)
            self._sessions[agreed.session] = session
        try:
            answer = agreed.sealed, agreed.session, agreed.secret
            channel.send(dial.hello(self._engine, *answer).encode())
            sock.settimeout(None)
            session.start()
        except BaseException as error:
            session.end(TransferBroken(f"no session could be made: {error}"))
            raise
        return True

    def _take_stream(self, sock: socket.socket) -> bool:
        raw = bytearray(dial.STREAM.size)
        receive_all(sock, [memoryview(raw)])
        magic, name, number, proof = dial.STREAM.unpack(raw)
        with self._lock:
            session = self._sessions.get(name)
        secret = session.agreed.secret if session else bytes(CAPABILITY_BYTES)
        same = hmac.compare_digest(dial.proof_of(secret, name, number), proof)
        if magic != dial.STREAM_MAGIC or session is None or not same:
            raise TransferRefused("a stream of no session")
        tune(sock, self._settings.dead_seconds)
        sock.settimeout(None)
        session.attach(number, sock, dial.WELCOME)
        return True


def _farewell(sock: socket.socket, deadline: float) -> None:
    """Let the peer read why, before a reset throws it away.

    A peer that goes on sending is heard until the deadline, whatever it sends: its
    place is another's then.
    """
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        while (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
            if not sock.recv(4096):
                return
