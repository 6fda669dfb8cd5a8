"""The contract of a directory: engines by the hosts that they serve.

A directory says where to connect, not whom to trust. Whoever can write to it can send a
connection astray, or hide a peer; what answers must still show the certificate of the
very host that was asked for, signed by the authority, before anything is moved
(`TransferIdentityError` otherwise). An engine without certificates follows a directory
to addresses of its own machine only. Nothing secret is in an entry.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from prefillshare.transfer.base import ID_BYTES, MAX_ADDRESS
from prefillshare.transfer.secure.identity import PeerIdentity


@dataclass(frozen=True)
class Entry:
    """Where the engine of a host listens, and which process it is.

    `who` has the region, site and host; `address` is as grants have it. `engine`
    (hexadecimal, 16 bytes; empty if a directory does not know) is another after each
    start of the process: what was granted before is gone then. Raises `ValueError` for
    a malformed field.
    """

    who: PeerIdentity
    address: str
    engine: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(f"[!-~]{{1,{MAX_ADDRESS}}}", self.address):
            raise ValueError(
                f"an address of 1 to {MAX_ADDRESS} visible ASCII characters is needed, "
                f"not {self.address[:80]!r}"
            )
        if self.engine and not re.fullmatch(f"[0-9a-f]{{{2 * ID_BYTES}}}", self.engine):
            raise ValueError(f"{self.engine[:80]!r} is not {2 * ID_BYTES} hex digits")


class Registration(Protocol):
    """An entry that this process keeps, from `register` to `close`."""

    @property
    def holds(self) -> bool:
        """Whether others find it, as far as is known."""

    def close(self) -> None:
        """Take it back. May be repeated, and never raises."""


class Directory(Protocol):
    """Finds engines; any thread may call.

    Every method but `close` raises `DirectoryError` if the directory cannot be used.
    """

    def find(self, who: PeerIdentity) -> Entry:
        """The entry of a host; `UnknownPeerError` if it has none."""

    def entries(self) -> Mapping[PeerIdentity, Entry]:
        """All entries that there are now; malformed ones are left out, and logged."""

    def register(self, entry: Entry) -> Registration:
        """Let others find this process's engine, in the place of an earlier one.

        It is found until `close`, and for a lease at most after this process has died.
        Raises `ConfigError` if the directory is a fixed one and says otherwise.
        """

    def close(self) -> None:
        """Disconnect; registrations are closed by who made them. May be repeated."""
