"""Where a link goes: to an address, or to the engine of a host, wherever that is."""

from __future__ import annotations

from prefillshare.errors import ConfigError, DirectoryError, TransferIdentityError
from prefillshare.transfer.discovery.base import Directory
from prefillshare.transfer.secure.identity import SCHEME, PeerIdentity
from prefillshare.transfer.tcp.sockets import Address, is_loopback, parse_address


class Destination:
    """`tcp://HOST:PORT`, or `prefillshare://REGION/SITE/HOST` as a directory has it.

    `secure` says that both sides show certificates; without, no other machine is gone
    to. Raises `ValueError` for a malformed text, `ConfigError` for an address that may
    not be gone to, or a name if there is no directory.
    """

    def __init__(self, text: str, directory: Directory | None, secure: bool) -> None:
        self.text = text
        self._directory, self._secure = directory, secure
        self._who: PeerIdentity | None = None
        if text.startswith(SCHEME):
            self._who = PeerIdentity.from_uri(text)
            if directory is None:
                raise ConfigError(
                    f"{text} is a name, and this engine has no directory to look it up "
                    "in; give it one, or an address like tcp://HOST:PORT"
                )
        else:
            self._allowed(text)

    def find(self) -> Address:
        """Where it is now.

        Raises `UnknownPeerError` and `DirectoryError` as `Directory.find`.
        """
        if self._who is None or self._directory is None:
            return parse_address(self.text)
        where = self._directory.find(self._who).address
        try:
            return self._allowed(where)
        except (ValueError, ConfigError) as error:
            raise DirectoryError(
                f"{self.text} is registered at {where}: {error}"
            ) from error

    def check(self, peer: PeerIdentity | None) -> None:
        """Raise `TransferIdentityError` if a certificate names another host."""
        if None not in (peer, self._who) and peer != self._who:
            raise TransferIdentityError(
                f"{peer.uri if peer else ''} answers there: its entry in the directory "
                "is of another time, or was forged"
            )

    def _allowed(self, address: str) -> Address:
        found = parse_address(address)
        if not self._secure and not is_loopback(found[0]):
            raise ConfigError(
                f"{address} is another machine, and this engine has no certificate to "
                "show; make some with `prefillshare keys`"
            )
        return found
