"""Certificates as settings, and what peers must show."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from prefillshare.config import Config
from prefillshare.errors import ConfigError, TransferIdentityError
from prefillshare.transfer.secure.identity import PeerIdentity

_REMEDY = "make certificates with `prefillshare keys`"


class SecuritySettings(Config):
    """PEM files of an authority, and of this host's certificate and key.

    Peers of the same authority are trusted, within `regions`: by default, this host's.
    """

    ca: Path
    certificate: Path
    key: Path
    regions: list[str] = []


class Security:
    """TLS 1.3 with certificates on both sides, made ready from settings.

    Raises `ConfigError` if a file is unusable, they do not belong together, or the
    certificate has expired.
    """

    def __init__(self, settings: SecuritySettings) -> None:
        self.client = _context(settings, ssl.PROTOCOL_TLS_CLIENT)
        self.server = _context(settings, ssl.PROTOCOL_TLS_SERVER)
        self.server.num_tickets = 0
        self.identity = _own(settings.certificate)
        self.regions = frozenset(settings.regions or [self.identity.region])

    def check(self, certificate: Mapping[str, Any]) -> PeerIdentity:
        """Who a peer is; `TransferIdentityError` if it is of no accepted region."""
        peer = PeerIdentity.from_certificate(certificate)
        if peer.region not in self.regions:
            raise TransferIdentityError(
                f"{peer.uri} is of region {peer.region}; {self.identity.uri} accepts "
                f"{sorted(self.regions)}: add it to `regions` if it may"
            )
        return peer


def _context(settings: SecuritySettings, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Who the peer is stands in its certificate's URI, which `Security.check` reads.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(settings.ca)
        context.load_cert_chain(settings.certificate, settings.key)
    except ssl.SSLError as error:
        raise ConfigError(
            f"{settings.ca}, {settings.certificate} and {settings.key} are not an "
            f"authority, a certificate and its key ({error.reason}); {_REMEDY}"
        ) from error
    except OSError as error:
        names = f"{settings.ca}, {settings.certificate} or {settings.key}"
        raise ConfigError(
            f"{names} cannot be read ({error.strerror}); {_REMEDY}"
        ) from error
    return context


def read_identity(path: Path) -> tuple[PeerIdentity, datetime]:
    """Whom a certificate file names, and when it expires; `ConfigError` if unusable."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        names = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        found = {"subjectAltName": [("URI", uri) for uri in uris]}
        who = PeerIdentity.from_certificate(found)
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        raise ConfigError(f"{path} is no certificate of a host ({error})") from error
    except TransferIdentityError as error:
        raise ConfigError(f"{path}: {error}") from error
    return who, certificate.not_valid_after_utc


def _own(path: Path) -> PeerIdentity:
    who, until = read_identity(path)
    if until.timestamp() < time.time():
        raise ConfigError(f"{path} has expired on {until:%Y-%m-%d}; {_REMEDY}")
    return who
