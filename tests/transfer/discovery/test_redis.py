"""A directory in Redis: leases, a server that fails, and what others wrote there."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from prefillshare.errors import DirectoryError, UnknownPeerError
from prefillshare.transfer.discovery.base import Entry
from prefillshare.transfer.discovery.redis import MAX_VALUE, PREFIX, RedisDirectory
from prefillshare.transfer.discovery.watch import Watch
from prefillshare.transfer.secure.identity import PeerIdentity
from tests.transfer.discovery.server import Server
from tests.transfer.pairs import SECONDS, until

HERE = PeerIdentity("eu", "site-a", "one")
KEY = PREFIX + HERE.name
ENTRY = Entry(HERE, "tcp://127.0.0.1:7000", "0a" * 16)
OTHER = Entry(HERE, "tcp://127.0.0.1:7001", "0b" * 16)
LONG, SHORT = 3600.0, 0.3


@pytest.fixture
def make(server: Server) -> Iterator[Callable[..., RedisDirectory]]:
    made = []

    def directory(lease: float = LONG, timeout: float = SECONDS) -> RedisDirectory:
        made.append(RedisDirectory(server.url, lease, timeout))
        return made[-1]

    yield directory
    for each in made:
        each.close()


Make = Callable[..., RedisDirectory]


def is_there(directory: RedisDirectory) -> bool:
    try:
        directory.find(HERE)
    except UnknownPeerError:
        return False
    return True


@contextmanager
def owner(server: Server, lease: float) -> Iterator[subprocess.Popen[str]]:
    """Another process, which has registered."""
    command = [sys.executable, "-m", "tests.transfer.discovery.owner"]
    with subprocess.Popen(
        [*command, server.url, HERE.name, str(lease)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "registered\n"
            yield process
        finally:
            process.kill()


def test_an_entry_outlives_its_lease_while_its_process_lives(
    make: Make, server: Server
) -> None:
    directory = make(SHORT)
    registration = directory.register(ENTRY)
    # It is set anew: the time that is left goes up again.
    left = server.client.pttl(KEY)
    until(lambda: server.client.pttl(KEY) < 0.8 * left)
    until(lambda: server.client.pttl(KEY) > 0.9 * 1000 * SHORT)
    assert directory.find(HERE) == ENTRY and registration.holds
    registration.close()
    assert not is_there(directory)


def test_an_entry_expires_with_a_process_that_is_killed(
    make: Make, server: Server
) -> None:
    directory = make()
    with owner(server, SHORT) as process:
        assert directory.find(HERE).engine == "0d" * 16
        process.kill()
        until(lambda: not is_there(directory))


def test_an_entry_goes_at_once_with_a_process_that_ends(
    make: Make, server: Server
) -> None:
    directory = make()
    with owner(server, LONG) as process:
        process.communicate()
        assert not is_there(directory)


def test_a_peer_that_was_started_again_is_recognised(make: Make) -> None:
    directory = make(SHORT)
    engines: list[str] = []
    changed = threading.Condition()

    def told(found: Mapping[PeerIdentity, Entry]) -> None:
        with changed:
            engines.append(found[HERE].engine if HERE in found else "none")
            changed.notify_all()

    first = directory.register(ENTRY)
    watch = Watch(directory, told, every_seconds=0.01)
    with changed:
        assert changed.wait_for(lambda: engines == [ENTRY.engine], SECONDS)
    second = directory.register(OTHER)
    with changed:
        assert changed.wait_for(lambda: engines[-1] == OTHER.engine, SECONDS)
    # The first is still renewed, and takes nothing back, nor away.
    until(lambda: not first.holds)
    first.close()
    assert directory.find(HERE) == OTHER
    second.close()
    with changed:
        assert changed.wait_for(lambda: engines[-1] == "none", SECONDS)
    watch.close()
    assert engines == [ENTRY.engine, OTHER.engine, "none"]


def test_a_server_that_is_started_again_has_the_entry_again(
    make: Make, server: Server
) -> None:
    directory = make(SHORT)
    registration = directory.register(ENTRY)
    server.stop()
    until(lambda: not registration.holds)
    with pytest.raises(DirectoryError, match=r"cannot be reached.*start it"):
        directory.find(HERE)
    with pytest.raises(DirectoryError, match="cannot be reached"):
        directory.register(OTHER)
    server.start()
    until(lambda: registration.holds)
    assert directory.find(HERE) == ENTRY
    server.stop()
    # It cannot be taken back, and that is no error: the lease ends.
    registration.close()


def test_a_server_that_does_not_answer_is_an_error_in_time(
    make: Make, server: Server
) -> None:
    hasty = make(LONG, 0.1)
    registration = make(LONG).register(ENTRY)
    watch = Watch(hasty, lambda _: None, every_seconds=0.01)
    with server.held_up():
        with pytest.raises(DirectoryError, match=r"not answered within 0\.1 s.*raise"):
            hasty.find(HERE)
        until(lambda: watch.failure is not None)
    until(lambda: watch.failure is None)
    watch.close()
    assert hasty.find(HERE) == ENTRY
    registration.close()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"{}",
        b"[" * 1000,
        b"[" * MAX_VALUE * 100,
        b'{"address": "tcp://a:1"}',
        b'{"address": "tcp://a:1", "engine": ""}',
        b'{"address": "tcp://a:1", "engine": 5}',
        b'{"address": "tcp://a\\u0000:1", "engine": "' + b"0a" * 16 + b'"}',
        b'{"address": "tcp://a:1", "engine": "' + b"0a" * 16 + b'", "more": 1}',
    ],
)
def test_what_is_no_entry_is_an_error_and_hides_no_other(
    make: Make, server: Server, value: bytes
) -> None:
    directory = make()
    neighbour = Entry(PeerIdentity("eu", "site-b", "two"), "tcp://a:1", "0c" * 16)
    registration = directory.register(neighbour)
    server.client.set(KEY, value)
    with pytest.raises((DirectoryError, UnknownPeerError), match="eu/site-a/one"):
        directory.find(HERE)
    assert dict(directory.entries()) == {neighbour.who: neighbour}
    registration.close()


def test_keys_of_any_kind_and_length_are_left_out(make: Make, server: Server) -> None:
    directory = make()
    registration = directory.register(ENTRY)
    server.client.lpush(PREFIX + "eu/site-a/list", "x")
    server.client.set(PREFIX + "x" * 1_000_000, "y")
    server.client.set(PREFIX + "no-name", "y")
    server.client.set("another:key", "y")
    assert dict(directory.entries()) == {HERE: ENTRY}
    with pytest.raises(DirectoryError, match="refuses: WRONGTYPE"):
        directory.find(PeerIdentity("eu", "site-a", "list"))
    registration.close()


def test_more_entries_than_there_can_be_are_an_error(
    make: Make, server: Server
) -> None:
    many = {f"{PREFIX}eu/a/h{n}": "{}" for n in range(10_001)}
    server.client.mset(many)
    with pytest.raises(DirectoryError, match="more than 10000 keys"):
        make().entries()


def test_many_entries_are_all_found(make: Make) -> None:
    directory = make()
    several = [
        Entry(PeerIdentity("eu", f"site-{n}", "host"), f"tcp://a:{n}", f"{n:032x}")
        for n in range(300)
    ]
    registrations = [directory.register(entry) for entry in several]
    assert dict(directory.entries()) == {entry.who: entry for entry in several}
    for registration in registrations:
        registration.close()
    assert not directory.entries()
