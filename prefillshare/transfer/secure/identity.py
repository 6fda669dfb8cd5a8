"""Who a certificate says that its holder is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefillshare.errors import TransferIdentityError

SCHEME = "prefillshare://"
_NAME = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"


@dataclass(frozen=True)
class PeerIdentity:
    """A host of a site of a region; each a name of a-z, 0-9 and hyphens.

    Raises `ValueError` for another name.
    """

    region: str
    site: str
    host: str

    def __post_init__(self) -> None:
        for what in ("region", "site", "host"):
            if not re.fullmatch(_NAME, getattr(self, what)):
                raise ValueError(
                    f"{what} is {getattr(self, what)!r}; use 1 to 63 of a-z, 0-9 and "
                    "hyphens between them"
                )

    @property
    def uri(self) -> str:
        """As it stands in a certificate (subject alternative name)."""
        return SCHEME + self.name

    @property
    def name(self) -> str:
        """REGION/SITE/HOST, as people and configurations write it."""
        return f"{self.region}/{self.site}/{self.host}"

    @classmethod
    def from_uri(cls, uri: str) -> PeerIdentity:
        """Undo `uri`; `ValueError` if it is not one."""
        if not uri.startswith(SCHEME):
            raise ValueError(f"{uri!r} is not {SCHEME}REGION/SITE/HOST")
        return cls.from_name(uri.removeprefix(SCHEME))

    @classmethod
    def from_name(cls, name: str) -> PeerIdentity:
        """Undo `name`; `ValueError` if it is not one."""
        parts = name.split("/")
        if len(parts) != 3:
            raise ValueError(f"{name!r} is not REGION/SITE/HOST")
        return cls(*parts)

    @classmethod
    def from_certificate(cls, certificate: Mapping[str, Any]) -> PeerIdentity:
        """Whom a certificate, as `getpeercert` gives it, names.

        Raises `TransferIdentityError` unless it names exactly one.
        """
        names = certificate.get("subjectAltName", ())
        uris = [str(value) for kind, value in names if kind == "URI"]
        try:
            (uri,) = uris
            return cls.from_uri(uri)
        except ValueError as error:
            raise TransferIdentityError(
                f"a certificate names {uris}, not one {SCHEME}REGION/SITE/HOST; "
                "make it with `prefillshare keys issue`"
            ) from error
