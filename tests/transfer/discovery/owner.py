"""A process that registers an engine, says so, and waits to be killed.

Usage: python -m tests.transfer.discovery.owner URL NAME LEASE_SECONDS
"""

from __future__ import annotations

import sys

from prefillshare.transfer.discovery.base import Entry
from prefillshare.transfer.discovery.redis import RedisDirectory
from prefillshare.transfer.secure.identity import PeerIdentity


def main() -> None:
    """Hold a registration until the input ends."""
    _, url, name, lease = sys.argv
    directory = RedisDirectory(url, float(lease), timeout_seconds=5)
    entry = Entry(PeerIdentity.from_name(name), "tcp://127.0.0.1:1", "0d" * 16)
    registration = directory.register(entry)
    sys.stdout.write("registered\n")
    sys.stdout.flush()
    sys.stdin.read()
    registration.close()
    directory.close()


if __name__ == "__main__":
    main()
