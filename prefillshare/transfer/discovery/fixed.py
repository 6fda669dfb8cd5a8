"""A directory that the configuration writes out."""

from __future__ import annotations

from collections.abc import Mapping

from prefillshare.errors import ConfigError, UnknownPeerError
from prefillshare.transfer.discovery.base import Entry
from prefillshare.transfer.secure.identity import PeerIdentity


class FixedDirectory:
    """A `Directory` of addresses that do not change; engines of hosts are not told."""

    def __init__(self, addresses: Mapping[PeerIdentity, str]) -> None:
        self._entries = {who: Entry(who, at) for who, at in addresses.items()}

    def find(self, who: PeerIdentity) -> Entry:
        """See `Directory.find`."""
        try:
            return self._entries[who]
        except KeyError:
            known = ", ".join(sorted(each.name for each in self._entries)) or "none"
            raise UnknownPeerError(
                f"{who.name} is not among the configured peers ({known}); add it to "
                "`peers`"
            ) from None

    def entries(self) -> Mapping[PeerIdentity, Entry]:
        """See `Directory.entries`."""
        return dict(self._entries)

    def register(self, entry: Entry) -> FixedRegistration:
        """See `Directory.register`: the address must be the one that others know."""
        there = self._entries.get(entry.who)
        if there is None or there.address != entry.address:
            known = there.address if there else "no address"
            raise ConfigError(
                f"{entry.who.name} listens at {entry.address}, and `peers` has {known} "
                "for it; make them the same on all hosts, or use Redis"
            )
        return FixedRegistration()

    def close(self) -> None:
        """See `Directory.close`."""


class FixedRegistration:
    """A `Registration` that is in the configuration."""

    holds = True

    def close(self) -> None:
        """See `Registration.close`: the configuration stays."""
