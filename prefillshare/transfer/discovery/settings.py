"""Which directory engines are found in, as settings."""

from __future__ import annotations

from pydantic import Field, SecretStr, field_validator

from prefillshare.config import Config
from prefillshare.errors import ConfigError
from prefillshare.transfer.discovery.base import Directory
from prefillshare.transfer.discovery.fixed import FixedDirectory
from prefillshare.transfer.secure.identity import PeerIdentity
from prefillshare.transfer.tcp.sockets import parse_address


class DiscoverySettings(Config):
    """Where the engines of hosts are found: written out, or in Redis.

    Attributes:
        peers: REGION/SITE/HOST, as in the host's certificate: tcp://HOST:PORT.
        redis: a URL, redis://, rediss:// (TLS) or unix://; in the place of `peers`.
        lease_seconds: for so long an engine is found after its process has died.
        timeout_seconds: for each answer of Redis.
    """

    peers: dict[str, str] = {}
    redis: SecretStr | None = None
    lease_seconds: float = Field(15.0, ge=0.03, le=86_400.0)
    timeout_seconds: float = Field(2.0, gt=0.0, le=60.0)

    @field_validator("peers")
    @classmethod
    def _names_and_addresses(cls, peers: dict[str, str]) -> dict[str, str]:
        for name, address in peers.items():
            PeerIdentity.from_name(name)
            parse_address(address)
        return peers


def open_directory(settings: DiscoverySettings) -> Directory:
    """The directory that is meant; the caller closes it.

    Raises `ConfigError` if both kinds are set, for an unusable URL, or if the package
    `redis` is missing.
    """
    # Not by a validator, whose errors would show the URL with its password.
    if settings.peers and settings.redis:
        raise ConfigError("`peers` and `redis` are both set; leave one out")
    if settings.redis is None:
        peers = settings.peers.items()
        return FixedDirectory({PeerIdentity.from_name(who): at for who, at in peers})
    try:
        from prefillshare.transfer.discovery.redis import RedisDirectory
    except ModuleNotFoundError as error:
        raise ConfigError(
            "`redis` is set, and the package is missing; run "
            "`pip install 'prefillshare[redis]'`"
        ) from error
    return RedisDirectory(
        settings.redis.get_secret_value(),
        settings.lease_seconds,
        settings.timeout_seconds,
    )
