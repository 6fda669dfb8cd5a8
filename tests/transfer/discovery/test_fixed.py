"""A directory that is written out, and the settings of both kinds."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefillshare.config import load_config
from prefillshare.errors import ConfigError
from prefillshare.transfer.discovery.base import Entry
from prefillshare.transfer.discovery.settings import DiscoverySettings, open_directory
from prefillshare.transfer.secure.identity import PeerIdentity

HERE = PeerIdentity("eu", "a", "one")


def test_an_engine_that_listens_elsewhere_than_others_think_is_told() -> None:
    directory = open_directory(DiscoverySettings(peers={HERE.name: "tcp://10.0.0.1:1"}))
    with pytest.raises(ConfigError, match=r"10\.0\.0\.2.*peers.*has tcp://10\.0\.0\.1"):
        directory.register(Entry(HERE, "tcp://10.0.0.2:1"))
    with pytest.raises(ConfigError, match="no address"):
        directory.register(Entry(PeerIdentity("eu", "a", "two"), "tcp://10.0.0.1:1"))


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("peers={one: 'tcp://a:1'}", "REGION/SITE/HOST"),
        ("peers={eu/a/One: 'tcp://a:1'}", "host is 'One'"),
        ("peers={eu/a/one: '10.0.0.1'}", "no address"),
        ("lease_seconds=0", "greater"),
        ("redis=redis://h:1", None),
        ("nodes={}", "unknown key nodes"),
    ],
)
def test_settings_are_checked(override: str, match: str | None) -> None:
    if match is None:
        load_config(DiscoverySettings, None, [override])
        return
    with pytest.raises(ConfigError, match=match):
        load_config(DiscoverySettings, None, [override])


def test_both_kinds_at_once_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "discovery.yaml"
    path.write_text("peers: {eu/a/one: 'tcp://a:1'}\nredis: redis://:secret@h:1\n")
    with pytest.raises(ConfigError, match="both set") as told:
        open_directory(load_config(DiscoverySettings, path, []))
    assert "secret" not in str(told.value)


def test_a_password_is_not_told() -> None:
    url = "http://:secret@host:1/0?password=secret"
    settings = DiscoverySettings.model_validate({"redis": url})
    assert "secret" not in repr(settings)
    with pytest.raises(ConfigError, match="host:1/0 is no place") as told:
        open_directory(settings)
    assert "secret" not in str(told.value)
