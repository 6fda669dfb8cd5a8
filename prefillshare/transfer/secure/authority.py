"""A small certificate authority: its key signs one certificate a host."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from prefillshare.errors import ConfigError
from prefillshare.transfer.secure.identity import PeerIdentity

CA_NAME = "ca"
CA_DAYS, HOST_DAYS = 3650, 90
# Clocks of hosts differ; a certificate is valid a little before it is made.
_EARLY = timedelta(minutes=5)


@dataclass(frozen=True)
class Issued:
    """Files of a certificate and its private key, and when it expires."""

    certificate: Path
    key: Path
    expires: datetime


def make_authority(folder: Path, days: int = CA_DAYS) -> Issued:
    """Make `ca.pem` and `ca.key` in a folder, which is made if need be.

    Raises `ConfigError` if it has an authority already, or cannot be written.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "prefillshare")])
    builder = _builder(name, name, key.public_key(), days)
    builder = builder.add_extension(x509.BasicConstraints(True, 0), critical=True)
    builder = builder.add_extension(_usage(authority=True), critical=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = builder.add_extension(identifier, critical=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made ({error.strerror})") from error
    return _written(folder, CA_NAME, builder.sign(key, hashes.SHA256()), key)


def issue(folder: Path, who: PeerIdentity, days: int = HOST_DAYS) -> Issued:
    """Make `HOST.pem` and `HOST.key` of a host with the authority of that folder.

    Raises `ConfigError` if there is no authority, the host has a certificate there
    already, or the files cannot be written.
    """
    authority, signer = _authority(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, who.host)])
    builder = _builder(name, authority.subject, key.public_key(), days)
    end_entity = x509.BasicConstraints(ca=False, path_length=None)
    both = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    uri = x509.UniformResourceIdentifier(who.uri)
    for extension, critical in (
        (end_entity, True),
        (_usage(authority=False), True),
        (x509.ExtendedKeyUsage(both), False),
        (x509.SubjectAlternativeName([uri]), False),
        (issuer, False),
    ):
        builder = builder.add_extension(extension, critical=critical)
    return _written(folder, who.host, builder.sign(signer, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + timedelta(days=days)) - _EARLY)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        raw = (folder / f"{CA_NAME}.pem").read_bytes()
        secret = (folder / f"{CA_NAME}.key").read_bytes()
        key = serialization.load_pem_private_key(secret, None)
        certificate = x509.load_pem_x509_certificate(raw)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder} has no readable authority ({error}); make one with "
            f"`prefillshare keys init {folder}`"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{folder}/{CA_NAME}.key is not of an elliptic curve")
    return certificate, key


def _written(
    folder: Path,
    name: str,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
) -> Issued:
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    made = Issued(
        folder / f"{name}.pem", folder / f"{name}.key", certificate.not_valid_after_utc
    )
    _write_new(made.key, secret, 0o600)
    try:
        _write_new(made.certificate, public, 0o644)
    except ConfigError:
        made.key.unlink()
        raise
    return made


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except FileExistsError as error:
        raise ConfigError(
            f"{path} exists; remove it first if it shall be replaced: what it has "
            "signed or proven is void then"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error
