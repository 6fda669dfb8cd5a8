"""Caches of prompt prefixes at declared boundaries, within a budget of bytes."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from prefillshare.kv.cache import KVCache
from prefillshare.kv.states import RecurrentState


@dataclass(slots=True)
class _Node:
    """A stretch of tokens behind its parent's, and the states after its last one.

    A node is a checkpoint while the store lists it as one; otherwise only its keys
    and values are kept, for those that continue it.
    """

    part: KVCache
    stop: int
    parent: bytes | None
    states: tuple[RecurrentState, ...] = ()
    children: set[bytes] = field(default_factory=set)

    @property
    def nbytes(self) -> int:
        return self.part.nbytes + KVCache((), self.states).nbytes


class CheckpointStore:
    """Finds the longest prefix of a prompt of which a cache was kept.

    A recurrent state cannot be cut, so a prompt resumes exactly where a checkpoint
    was taken and nowhere between. A prefix is known by a hash over the caller's `root`
    (as in `PrefixIndex`) and its tokens. Keys and values of a checkpoint are stored
    from the end of the longest stored prefix of it on, so a conversation that grows
    stores them once, and a state at each of its checkpoints.

    The least recently used checkpoints go first. One that others continue loses its
    state at once, and its keys and values with the last of those. A method that raises
    has changed nothing. Not thread-safe.

    Attributes:
        byte_budget: what all stored tensors together never exceed.
        nbytes: what they take now.
        queried_tokens: tokens passed to `match` so far.
        hit_tokens: tokens covered by what `match` returned so far.
    """

    def __init__(self, byte_budget: int) -> None:
        """Start empty.

        Raises:
            ValueError: the budget is negative.
        """
        if byte_budget < 0:
            raise ValueError(f"a budget cannot be negative, got {byte_budget} bytes")
        self.byte_budget = byte_budget
        self.nbytes = 0
        self.queried_tokens = 0
        self.hit_tokens = 0
        self._nodes: dict[bytes, _Node] = {}
        self._stops: Counter[int] = Counter()
        # Least recently used first.
        self._checkpoints: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        """Number of checkpoints."""
        return len(self._checkpoints)

    def match(self, root: bytes, token_ids: Sequence[int]) -> KVCache | None:
        """The cache of the longest checkpointed prefix of `token_ids`, if any.

        Raises:
            ValueError: a token id is no unsigned 32-bit integer.
        """
        path = self._path(root, token_ids)
        hits = [key for key in path if key in self._checkpoints]
        self.queried_tokens += len(token_ids)
        if not hits:
            return None
        self._checkpoints.move_to_end(hits[-1])
        self.hit_tokens += self._nodes[hits[-1]].stop
        return self._cache(hits[-1])

    def insert(self, root: bytes, token_ids: Sequence[int], cache: KVCache) -> bool:
        """Keep a copy of the cache of `token_ids`; whether it is a checkpoint now.

        It is not if it exceeds the budget by itself: then nothing is evicted for it.

        Raises:
            ValueError: the cache covers another number of tokens than given, or none,
                or a token id is no unsigned 32-bit integer.
        """
        if cache.tokens != len(token_ids) or not token_ids:
            raise ValueError(
                f"a checkpoint needs the cache of its tokens: {len(token_ids)} tokens, "
                f"but a cache of {cache.tokens}"
            )
        key = _key(root, token_ids)
        if key in self._checkpoints:
            self._checkpoints.move_to_end(key)
            return True
        if cache.nbytes > self.byte_budget:
            return False
        node = self._nodes.get(key) or self._grow(root, token_ids, key, cache)
        self.nbytes -= node.nbytes
        node.states = cache.states
        self.nbytes += node.nbytes
        self._checkpoints[key] = None
        self._shrink()
        return True

    def check_integrity(self) -> None:
        """Check nodes, their links and the count of bytes against each other.

        Raises:
            AssertionError: they disagree; the message gives numbers.
        """
        total = sum(node.nbytes for node in self._nodes.values())
        assert total == self.nbytes <= self.byte_budget, (
            f"{total} bytes stored, {self.nbytes} counted, {self.byte_budget} allowed"
        )
        stops = Counter(node.stop for node in self._nodes.values())
        assert stops == self._stops, f"stops {stops}, counted {self._stops}"
        missing = [key for key in self._checkpoints if key not in self._nodes]
        assert not missing, f"{len(missing)} checkpoints without a node"
        for key, node in self._nodes.items():
            assert node.children or key in self._checkpoints, (
                f"a node at {node.stop} is no checkpoint and nobody continues it"
            )
            assert key in self._checkpoints or not node.states, (
                f"a node at {node.stop} is no checkpoint but holds states"
            )
            parent = self._nodes[node.parent] if node.parent else None
            start = parent.stop if parent else 0
            assert parent is None or key in parent.children, "a child is not listed"
            assert node.part.tokens == node.stop - start, (
                f"{node.part.tokens} tokens stored from {start} to {node.stop}"
            )

    def _grow(
        self, root: bytes, token_ids: Sequence[int], key: bytes, cache: KVCache
    ) -> _Node:
        """A new node behind the longest stored prefix; it is no checkpoint yet."""
        above = next(reversed(self._path(root, token_ids)), None)
        start = self._nodes[above].stop if above else 0
        # Copied: a view would keep the whole cache in memory.
        part = KVCache(
            tuple(
                (k.clone(), v.clone())
                for k, v in cache.slice(start, cache.tokens).layers
            )
        )
        node = _Node(part, cache.tokens, above)
        self._nodes[key] = node
        self._stops[node.stop] += 1
        self.nbytes += node.nbytes
        if above:
            self._nodes[above].children.add(key)
        return node

    def _shrink(self) -> None:
        """Drop checkpoints until the rest fits; the newest one alone always does."""
        while self.nbytes > self.byte_budget:
            key, _ = self._checkpoints.popitem(last=False)
            node = self._nodes[key]
            self.nbytes -= node.nbytes
            node.states = ()
            self.nbytes += node.nbytes
            self._prune(key)

    def _prune(self, key: bytes | None) -> None:
        """Forget a node that nobody needs, and those that it alone continued."""
        while key and key not in self._checkpoints and not self._nodes[key].children:
            node = self._nodes.pop(key)
            self.nbytes -= node.nbytes
            self._stops -= Counter([node.stop])
            if node.parent:
                self._nodes[node.parent].children.remove(key)
            key = node.parent

    def _cache(self, key: bytes) -> KVCache:
        """A checkpoint's cache, put together from the stretches that lead to it."""
        parts = [KVCache(self._nodes[key].part.layers, self._nodes[key].states)]
        above = self._nodes[key].parent
        while above:
            parts.append(self._nodes[above].part)
            above = self._nodes[above].parent
        return KVCache.concatenate(parts[::-1])

    def _path(self, root: bytes, token_ids: Sequence[int]) -> list[bytes]:
        """All stored prefixes of `token_ids`, shortest first."""
        stops = [stop for stop in sorted(self._stops) if stop <= len(token_ids)]
        return [key for key in _keys(root, token_ids, stops) if key in self._nodes]


def _key(root: bytes, token_ids: Sequence[int]) -> bytes:
    return next(_keys(root, token_ids, [len(token_ids)]))


def _keys(
    root: bytes, token_ids: Sequence[int], stops: Sequence[int]
) -> Iterator[bytes]:
    """A hash of `token_ids[:stop]` for each of the ascending `stops`."""
    try:
        packed = struct.pack(f"<{len(token_ids)}I", *token_ids)
    except struct.error as error:
        raise ValueError(
            f"token ids must be unsigned 32-bit integers: {error}"
        ) from error
    # The root is hashed to a fixed length, so that none of its bytes read as tokens.
    chain = hashlib.blake2b(hashlib.sha256(root).digest(), digest_size=32)
    start = 0
    for stop in stops:
        chain.update(packed[4 * start : 4 * stop])
        start = stop
        yield chain.copy().digest()
