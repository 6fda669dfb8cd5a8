"""A directory in Redis, whose entries last as long as who made them."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as NoAnswer
from redis.retry import Retry

from prefillshare.errors import ConfigError, DirectoryError, UnknownPeerError
from prefillshare.transfer.discovery.base import Entry
from prefillshare.transfer.secure.identity import PeerIdentity

_log = logging.getLogger(__name__)
PREFIX = "prefillshare:engines:"
MAX_NAME, MAX_VALUE, MAX_ENTRIES = 200, 1 << 10, 10_000
# Anybody may have written anything: what is too long is cut off by the server, before
# it travels. Each returns the cursor, then names and values in turn.
_LIST = f"""
local page = redis.call('SCAN', ARGV[1], 'MATCH', '{PREFIX}*', 'COUNT', 200)
local found = {{page[1]}}
for _, key in ipairs(page[2]) do
  if #key <= {MAX_NAME} + #'{PREFIX}' then
    local value = redis.pcall('GETRANGE', key, 0, {MAX_VALUE})
    if type(value) == 'string' then
      found[#found + 1] = key
      found[#found + 1] = value
    end
  end
end
return found
"""
# Only where nobody else has registered in the meantime.
_RENEW = """
local there = redis.pcall('GET', KEYS[1])
if there and there ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_DROP = """
if redis.pcall('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""


class RedisDirectory:
    """A `Directory` at a URL: redis://, rediss:// (TLS) or unix://.

    Entries are renewed three times a lease of `lease_seconds`; Redis is given
    `timeout_seconds` for each answer. All keys of the database are looked through for
    `entries`: give it one of its own. Raises `ConfigError` for an unusable URL.
    """

    def __init__(self, url: str, lease_seconds: float, timeout_seconds: float) -> None:
        self._lease, self._timeout = lease_seconds, timeout_seconds
        # The URL may hold a password.
        self._where = f"Redis at {url.rpartition('@')[2].partition('?')[0]}"
        try:
            self._client = Redis.from_url(
                url,
                socket_timeout=timeout_seconds,
                socket_connect_timeout=timeout_seconds,
                # A server that was started again ends the connections that it had.
                retry=Retry(NoBackoff(), 1, supported_errors=(NoConnection,)),
            )
        except ValueError as error:
            raise ConfigError(
                f"{self._where} is no place to look engines up; write "
                "redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH"
            ) from error

    def find(self, who: PeerIdentity) -> Entry:
        """See `Directory.find`."""
        with self._asked():
            raw = self._client.getrange(_key(who), 0, MAX_VALUE)
        value = cast(bytes, raw)
        if not value:
            raise UnknownPeerError(
                f"{self._where} has no engine of {who.name}; see that its agent runs, "
                "and registers there"
            )
        try:
            return _entry(who, value)
        except ValueError as error:
            raise DirectoryError(
                f"{self._where} has no entry at {_key(who)} ({error}); delete that key"
            ) from error

    def entries(self) -> Mapping[PeerIdentity, Entry]:
        """See `Directory.entries`."""
        found: dict[PeerIdentity, Entry] = {}
        cursor, seen = b"0", 0
        while True:
            with self._asked():
                raw = self._client.eval(_LIST, 0, cursor)
            cursor, *pairs = cast(list[bytes], raw)
            for key, value in zip(pairs[::2], pairs[1::2], strict=True):
                try:
                    who = PeerIdentity.from_name(key.decode().removeprefix(PREFIX))
                    found[who] = _entry(who, value)
                except ValueError as error:
                    _log.info("%s: %r is no entry: %s", self._where, key, error)
            if (seen := seen + len(pairs) // 2) > MAX_ENTRIES:
                raise DirectoryError(
                    f"{self._where} has more than {MAX_ENTRIES} keys like {PREFIX}*; "
                    "delete those that are of no engine"
                )
            if cursor == b"0":
                return found

    def register(self, entry: Entry) -> RedisRegistration:
        """See `Directory.register`; `ValueError` if the entry names no engine."""
        if not entry.engine:
            raise ValueError(f"the entry of {entry.who.name} names no engine")
        value = json.dumps({"address": entry.address, "engine": entry.engine})
        with self._asked():
            self._client.set(_key(entry.who), value, px=int(1000 * self._lease))
        return RedisRegistration(self, entry.who, value, self._lease)

    def renew(self, who: PeerIdentity, value: str) -> bool:
        """Extend a lease; False if another engine has registered for the host."""
        with self._asked():
            lease = int(1000 * self._lease)
            done = self._client.eval(_RENEW, 1, _key(who), value, str(lease))
            return bool(done == 1)

    def drop(self, who: PeerIdentity, value: str) -> None:
        """Remove an entry, if it is still that one."""
        with self._asked():
            self._client.eval(_DROP, 1, _key(who), value)

    def close(self) -> None:
        """See `Directory.close`."""
        self._client.close()

    @contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except NoAnswer as error:
            raise DirectoryError(
                f"{self._where} has not answered within {self._timeout} s; see what "
                "keeps it, or raise `timeout_seconds`"
            ) from error
        except NoConnection as error:
            raise DirectoryError(
                f"{self._where} cannot be reached ({error}); start it, or correct "
                "`redis`"
            ) from error
        except RedisError as error:
            raise DirectoryError(f"{self._where} refuses: {error}") from error


class RedisRegistration:
    """A `Registration` that a thread renews."""

    def __init__(
        self, directory: RedisDirectory, who: PeerIdentity, value: str, lease: float
    ) -> None:
        self._directory, self._who, self._value = directory, who, value
        self._every = lease / 3
        self._holds = True
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="directory", daemon=True)
        self._thread.start()

    @property
    def holds(self) -> bool:
        """See `Registration.holds`."""
        return self._holds

    def close(self) -> None:
        """See `Registration.close`."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._thread.join()
        try:
            self._directory.drop(self._who, self._value)
        except DirectoryError as error:
            _log.warning("%s stays until its lease ends: %s", self._who.name, error)

    def _run(self) -> None:
        while not self._closed.wait(self._every):
            why = "another engine has registered for it"
            try:
                holds = self._directory.renew(self._who, self._value)
            except DirectoryError as error:
                holds, why = False, str(error)
            if self._holds and not holds:
                _log.warning("%s may not be found: %s", self._who.name, why)
            self._holds = holds


def _key(who: PeerIdentity) -> str:
    return PREFIX + who.name


def _entry(who: PeerIdentity, value: bytes) -> Entry:
    if len(value) > MAX_VALUE:
        raise ValueError(f"more than {MAX_VALUE} bytes")
    try:
        raw: Any = json.loads(value)
    except RecursionError as error:
        raise ValueError("too deep") from error
    if not (isinstance(raw, dict) and raw.keys() == {"address", "engine"}):
        raise ValueError("not an address and an engine")
    address, engine = raw["address"], raw["engine"]
    if not (isinstance(address, str) and isinstance(engine, str) and engine):
        raise ValueError("not an address and an engine")
    return Entry(who, address, engine)
