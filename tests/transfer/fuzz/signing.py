"""Certificates of a trusted authority whose names are whatever they are."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from prefillshare.errors import TransferError
from prefillshare.transfer.secure import authority
from prefillshare.transfer.secure.channel import certificate_of
from prefillshare.transfer.secure.contexts import Security, SecuritySettings
from prefillshare.transfer.secure.identity import PeerIdentity
from tests.transfer.fuzz.scratch import scratch

_NAMES = x509.SubjectAlternativeName.oid
_URI = 0x86


def certificate(data: bytes) -> None:
    """The names of a peer's certificate in DER, which the authority has signed."""
    if (who := let_in(data)) is not None:
        uri = who.uri.encode()
        assert bytes([_URI, len(uri)]) + uri in data
        assert who.region == "eu"


def let_in(data: bytes) -> PeerIdentity | None:
    """Whom the names of a certificate make its holder; None if it is turned away."""
    folder, security = _security()
    try:
        shown = _handshake(security, _signed(folder, data))
        who = security.check(shown)
    except (TransferError, ssl.SSLError):
        return None
    # Nobody else is named by a URI.
    assert [kind for kind, _ in shown["subjectAltName"]].count("URI") == 1
    return who


@functools.cache
def _security() -> tuple[Path, Security]:
    folder = scratch()
    authority.make_authority(folder)
    made = authority.issue(folder, PeerIdentity("eu", "a", "host"))
    settings = SecuritySettings(
        ca=folder / "ca.pem", certificate=made.certificate, key=made.key
    )
    return folder, Security(settings)


@functools.cache
def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _signed(folder: Path, names: bytes) -> Path:
    issuer, signer = authority._authority(folder)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "peer")])
    builder = authority._builder(subject, issuer.subject, _key().public_key(), days=1)
    extension = x509.UnrecognizedExtension(_NAMES, names)
    made = builder.add_extension(extension, critical=False).sign(
        signer, hashes.SHA256()
    )
    private = _key().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = folder / "peer.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path


def _handshake(security: Security, chain: Path) -> dict[str, Any]:
    """What the peer has shown, once both sides have said all, in memory."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(chain.parent / "ca.pem")
    context.load_cert_chain(chain)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    peer = context.wrap_bio(to_client, to_server)
    server = security.server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(2):
        _step(peer.do_handshake)
        _step(server.do_handshake)
    return certificate_of(server)


def _step(handshake: Callable[[], None]) -> None:
    try:
        handshake()
    except ssl.SSLWantReadError:
        pass
