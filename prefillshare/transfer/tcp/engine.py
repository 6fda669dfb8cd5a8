"""The engine over TCP."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

from prefillshare.errors import ConfigError, TransferBroken, TransferClosed
from prefillshare.transfer.base import (
    ID_BYTES,
    Access,
    Grant,
    GrantEnd,
    Ranges,
    Region,
)
from prefillshare.transfer.discovery.base import Directory
from prefillshare.transfer.grants import GrantTable, still_used
from prefillshare.transfer.ranges import (
    Pieces,
    as_ranges,
    check_disjoint,
    check_within,
)
from prefillshare.transfer.secure.channel import Channel
from prefillshare.transfer.secure.contexts import Security, SecuritySettings
from prefillshare.transfer.secure.identity import PeerIdentity
from prefillshare.transfer.tcp.destination import Destination
from prefillshare.transfer.tcp.dial import Dialler
from prefillshare.transfer.tcp.lender import Lender
from prefillshare.transfer.tcp.link import TcpLink
from prefillshare.transfer.tcp.listener import Listener
from prefillshare.transfer.tcp.session import Agreed, Session
from prefillshare.transfer.tcp.settings import TcpSettings
from prefillshare.transfer.tcp.sockets import is_loopback, parse_address
from prefillshare.transfer.timer import Timer

# How long `close` and `deregister` wait for what is under way to let go of memory.
END_SECONDS = 10.0


class TcpEngine:
    """An `Engine` whose peers reach it over TCP, IPv4 or IPv6.

    `listen` is `tcp://HOST:PORT`, port 0 takes a free one. Without `security` it speaks
    to this machine alone. In `directory`, which stays the caller's, it looks hosts up.
    `clock` measures leases, in seconds. Raises `ConfigError` if it may not, or cannot,
    listen there, or for unusable certificates; `ValueError` for a malformed address;
    `TransferBroken` if there are no threads for it.
    """

    def __init__(
        self,
        listen: str = "tcp://127.0.0.1:0",
        settings: TcpSettings | None = None,
        security: SecuritySettings | None = None,
        *,
        directory: Directory | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        host, port = parse_address(listen)
        self._settings = settings or TcpSettings()
        self._security = Security(security) if security is not None else None
        if self._security is None and not is_loopback(host):
            raise ConfigError(
                f"{listen} can be reached from other machines, and there is no "
                "certificate to know peers by; make some with `prefillshare keys`, or "
                "listen on 127.0.0.1"
            )
        self._directory = directory
        self._id = secrets.token_bytes(ID_BYTES)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._regions: dict[int, Region] = {}
        self._links: list[TcpLink] = []
        self._closed = False
        self._timer = Timer()
        self._listener = Listener(
            host,
            port,
            self._id,
            self._settings,
            self._security,
            self._timer,
            self._welcome,
        )
        try:
            with ExitStack() as undo:
                undo.callback(self._listener.close)
                self.table = GrantTable(clock)
                undo.callback(self.table.join, END_SECONDS)
                undo.callback(self.table.close)
                self._timer.start()
                undo.callback(self._timer.close)
                self._listener.start()
                undo.pop_all()
        except RuntimeError as error:
            raise TransferBroken(
                f"no thread for an engine ({error}); allow more (`ulimit -u`)"
            ) from error

    @property
    def address(self) -> str:
        """See `Engine.address`."""
        return self._listener.address

    @property
    def engine_id(self) -> str:
        """What its grants name it (hexadecimal); another for each engine."""
        return self._id.hex()

    @property
    def identity(self) -> PeerIdentity | None:
        """The host that its certificate names, if it has one."""
        return self._security.identity if self._security else None

    def register(self, buffer: memoryview) -> Region:
        """See `Engine.register`."""
        if buffer.readonly or not buffer.c_contiguous or not buffer.nbytes:
            raise ValueError("a region is a contiguous, writable buffer, not empty")
        region = Region(next(self._numbers), buffer.cast("B"))
        with self._lock:
            if self._closed:
                raise TransferClosed("the engine is closed; make a new one")
            self._regions[region.number] = region
        return region

    def check_region(self, region: Region) -> None:
        """Raise `ValueError` unless the region is registered here."""
        with self._lock:
            if self._regions.get(region.number) is not region:
                raise ValueError(f"region {region.number} is not registered here")

    def deregister(self, region: Region) -> None:
        """See `Engine.deregister`."""
        self.check_region(region)
        with self._lock:
            self._regions.pop(region.number, None)
            links = list(self._links)
        free = [link.let_go(region) for link in links]
        free.append(self.table.revoke_region(region.number, END_SECONDS))
        if not all(free):
            with self._lock:
                self._regions[region.number] = region
            raise still_used(region)

    def grant(
        self,
        region: Region,
        ranges: Ranges,
        access: Access,
        on_end: Callable[[GrantEnd], None],
        lease_seconds: float = 60.0,
    ) -> Grant:
        """See `Engine.grant`."""
        lent = as_ranges(ranges)
        check_within(lent, region.memory.nbytes, "the region")
        if access == "write":
            check_disjoint(lent)
        self.check_region(region)
        pieces = Pieces(region.memory, lent)
        return self.table.add(
            pieces,
            access,
            self.address,
            self.engine_id,
            on_end,
            lease_seconds,
            region.number,
        )

    def revoke(self, grant_id: str) -> None:
        """See `Engine.revoke`."""
        self.table.revoke(grant_id)

    def connect(self, address: str, timeout: float = 10.0) -> TcpLink:
        """See `Engine.connect`; the address may also be the URI of a host.

        The link then goes wherever the directory has that host whenever it connects.
        Raises `UnknownPeerError` and `DirectoryError` as `Directory.find`, and
        `TransferIdentityError` if what answers has the certificate of another host.
        """
        to = Destination(address, self._directory, self._security is not None)
        dialler = Dialler(self._id, to, self._settings, self._security, self._timer)
        link = TcpLink(dialler, self._timer, self.check_region, self._forget)
        with self._lock:
            if self._closed:
                raise TransferClosed("the engine is closed; make a new one")
            self._links.append(link)
        try:
            link.open(timeout)
        except BaseException:
            link.close()
            raise
        return link

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            self._closed = True
            links = list(self._links)
        for link in links:
            link.close()
        self.table.close()
        for session in self._listener.close():
            session.close()
        self.table.join(END_SECONDS)
        self._timer.close()

    def _welcome(self, channel: Channel, agreed: Agreed) -> Session:
        lender = Lender(self.table, self._listener.forget)
        return Session(channel, agreed, lender, self._settings, self._timer)

    def _forget(self, link: TcpLink) -> None:
        with self._lock:
            if link in self._links:
                self._links.remove(link)
