"""Prefill and decode workers in two sites, and an emulated link between them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from pydantic import ValidationError

from prefillshare.errors import ConfigError
from prefillshare.serving.launcher import Cluster
from prefillshare.serving.settings import (
    ServeSettings,
    SiteLinkSettings,
    SiteSettings,
    SitesSettings,
)
from prefillshare.serving.sites import certificates
from prefillshare.transfer.secure.contexts import SecuritySettings, read_identity
from tests.serving.service import MESSAGES, serve_settings, unheld
from tests.transfer.networked import security
from tests.transfer.pairs import until

LINK = SiteLinkSettings(rate_gbps=1.0, delay_seconds=0.002, jitter_seconds=0.001)


def two_sites(**changes: Any) -> SitesSettings:
    fields = {"prefill": {"name": "east"}, "decode": {"name": "west"}, "link": LINK}
    return SitesSettings.model_validate({**fields, **changes})


def with_sites(
    directory: Path, decoders: dict[str, Path], sites: SitesSettings
) -> ServeSettings:
    chosen = {name: decoders[name] for name in ("shipping", "alone")}
    settings = serve_settings(directory, chosen)
    return settings.model_copy(update={"sites": sites})


@pytest.fixture(scope="module")
def apart(
    tiny_directory: Path,
    decoders: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    keys = tmp_path_factory.mktemp("keys")
    sites = two_sites(
        prefill=SiteSettings(name="east", security=security(keys, "a", "east")),
        decode=SiteSettings(name="west", security=security(keys, "b", "west")),
    )
    with Cluster(with_sites(tiny_directory, decoders, sites)) as running:
        folder = Path(running._folder.name)
        yield running
    assert all(role.process.poll() is not None for role in running.roles)
    assert not folder.exists()


def stats(cluster: Cluster) -> Any:
    return httpx.get(f"{cluster.url}/stats", trust_env=False).json()


def ask(cluster: Cluster, model: str) -> str:
    with openai.OpenAI(
        base_url=f"{cluster.url}/v1", api_key="none", max_retries=0
    ) as client:
        answer = client.chat.completions.create(
            model=model, messages=MESSAGES, max_tokens=4
        )
    return answer.choices[0].message.content or ""


def test_kv_between_sites_is_encrypted_and_goes_over_the_link(apart: Cluster) -> None:
    names = [role.name for role in apart.roles]
    assert names[:3] == ["prefill site's agent", "link", "decode site's agent"]
    assert ask(apart, "shipping") != ""
    worker = stats(apart)["decoders"]["shipping"]
    assert worker["bytes_moved"] == worker["bytes_sealed"] > 0
    # The lender hears of a transfer's end after the reader.
    until(lambda: stats(apart)["prefill"]["bytes_sent"] == worker["bytes_moved"])
    # Not by another way: without the link nothing comes, and that is said.
    link = apart.roles[1]
    os.kill(link.process.pid, signal.SIGKILL)
    link.process.wait(10)
    with pytest.raises(openai.InternalServerError, match=r"tcp://127\.0\.0\.1"):
        ask(apart, "shipping")
    assert any("the link" in sentence for sentence in apart.check())
    assert ask(apart, "alone") != ""
    # What was made for the request is free again.
    until(lambda: unheld(stats(apart)["prefill"]) == apart.settings.prefill_blocks)


def test_the_link_is_the_one_that_is_configured(apart: Cluster) -> None:
    config = Path(apart._folder.name) / "link.yaml"
    assert LINK.emulated.model_dump_json() == config.read_text()
    assert LINK.emulated.rate == 1e9
    assert (LINK.emulated.delay, LINK.emulated.jitter) == (0.002, 0.001)


def test_certificates_that_are_made_name_the_sites_and_no_others_can_follow(
    tmp_path: Path,
) -> None:
    made = certificates(two_sites(), tmp_path / "keys")
    names = {
        side: read_identity(files.certificate)[0].site for side, files in made.items()
    }
    assert names == {"prefill": "east", "decode": "west"}
    with pytest.raises(ConfigError, match="no readable authority"):
        security(tmp_path / "keys", "c", "west")


def test_a_certificate_of_another_site_is_refused_before_anything_starts(
    tiny_directory: Path, decoders: dict[str, Path], tmp_path: Path
) -> None:
    east, north = (security(tmp_path, f"host-{s}", s) for s in ("east", "north"))
    sites = two_sites(
        prefill=SiteSettings(name="east", security=east),
        decode=SiteSettings(name="west", security=north),
    )
    cluster = Cluster(with_sites(tiny_directory, decoders, sites))
    with pytest.raises(ConfigError, match="of site 'north', not of 'west'"):
        cluster.__enter__()
    assert cluster.roles == []


FILES = SecuritySettings(ca=Path("a"), certificate=Path("b"), key=Path("c"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decode": {"name": "east"}}, "both sites are 'east'"),
        ({"decode": {"name": "West Side"}}, "site is 'West Side'"),
        ({"decode": SiteSettings(name="west", security=FILES)}, "give both theirs"),
        ({"link": {"rate": 1e9}}, "rate"),
        ({"link": {"rate_gbps": 0}}, "greater than 0"),
    ],
    ids=str,
)
def test_sites_that_cannot_be_are_said(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        two_sites(**changes)
