"""What both kinds of directory promise."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from prefillshare.errors import UnknownPeerError
from prefillshare.transfer.discovery.base import Directory, Entry
from prefillshare.transfer.discovery.settings import DiscoverySettings, open_directory
from prefillshare.transfer.discovery.watch import Watch
from prefillshare.transfer.secure.identity import PeerIdentity
from tests.transfer.discovery.server import serving
from tests.transfer.pairs import SECONDS, nothing_left_behind

HERE, THERE = PeerIdentity("eu", "site-a", "one"), PeerIdentity("eu", "site-b", "two")
NOBODY = PeerIdentity("eu", "site-a", "none")
ENTRIES = [
    Entry(HERE, "tcp://10.0.0.1:7000", "0a" * 16),
    Entry(THERE, "tcp://[fe80::1]:7000", "0b" * 16),
]


@contextmanager
def fixed() -> Iterator[Directory]:
    peers = {entry.who.name: entry.address for entry in ENTRIES}
    directory = open_directory(DiscoverySettings(peers=peers))
    yield directory
    directory.close()


@contextmanager
def redis() -> Iterator[Directory]:
    with serving() as server:
        settings = DiscoverySettings.model_validate({"redis": server.url})
        directory = open_directory(settings)
        yield directory
        directory.close()
        directory.close()


@pytest.fixture(params=[fixed, redis])
def directory(request: pytest.FixtureRequest) -> Iterator[Directory]:
    with nothing_left_behind(), request.param() as found:
        yield found


@pytest.fixture
def registered(directory: Directory) -> Iterator[Directory]:
    registrations = [directory.register(entry) for entry in ENTRIES]
    assert all(each.holds for each in registrations)
    yield directory
    for each in registrations:
        each.close()
        each.close()


def addresses(found: Mapping[PeerIdentity, Entry]) -> dict[PeerIdentity, str]:
    return {who: entry.address for who, entry in found.items()}


EXPECTED = {entry.who: entry.address for entry in ENTRIES}


def test_what_is_registered_is_found(registered: Directory) -> None:
    for entry in ENTRIES:
        found = registered.find(entry.who)
        assert (found.who, found.address) == (entry.who, entry.address)
        # A fixed directory cannot know which process there is.
        assert found.engine in (entry.engine, "")
    assert addresses(registered.entries()) == EXPECTED


def test_a_host_that_is_not_there_is_named_with_a_remedy(registered: Directory) -> None:
    with pytest.raises(UnknownPeerError, match=r"eu/site-a/none.*(add it|agent runs)"):
        registered.find(NOBODY)


def test_a_registration_for_an_engine_that_was_started_again(
    registered: Directory,
) -> None:
    again = registered.register(Entry(HERE, "tcp://10.0.0.1:7000", "0c" * 16))
    assert again.holds
    assert registered.find(HERE).engine in ("0c" * 16, "")
    again.close()


def test_a_watch_tells_all_at_first(registered: Directory) -> None:
    told: list[Mapping[PeerIdentity, Entry]] = []
    first = threading.Event()

    def note(found: Mapping[PeerIdentity, Entry]) -> None:
        told.append(found)
        first.set()

    watch = Watch(registered, note, every_seconds=60)
    assert first.wait(SECONDS)
    watch.close()
    watch.close()
    assert [addresses(each) for each in told] == [EXPECTED]
    assert watch.failure is None


@pytest.mark.parametrize(
    ("address", "engine"),
    [
        ("", "0a" * 16),
        ("tcp://a b:1", "0a" * 16),
        ("tcp://" + "a" * 300 + ":1", "0a" * 16),
        ("tcp://a:1\n", "0a" * 16),
        ("tcp://a:1", "0A" * 16),
        ("tcp://a:1", "0a" * 15),
    ],
)
def test_an_entry_is_bounded_and_plain(address: str, engine: str) -> None:
    with pytest.raises(ValueError, match="address|hex digits"):
        Entry(HERE, address, engine)
