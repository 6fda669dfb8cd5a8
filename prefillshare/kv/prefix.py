"""Which prompt prefixes are cached, and in which blocks."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prefillshare.kv.blocks import BlockPool


@dataclass(frozen=True)
class Match:
    """A cached prefix: its blocks in order, and the number of tokens they cover."""

    blocks: list[int]
    tokens: int


@dataclass(slots=True)
class _Entry:
    block: int
    parent: bytes | None
    children: int = 0


class PrefixIndex:
    """Finds the blocks of the longest cached prefix of a prompt.

    Block i of a prompt is known by a chain hash over all tokens up to its end:
    `key_i = BLAKE2b-256(key_{i-1} || token ids of block i as little-endian uint32)`,
    where `key_{-1}` is the caller's `root`. A root is a cryptographic digest of all
    else that the bytes depend on or that must keep caches apart: model identity, KV
    format, tenant salt. Prompts under different roots never share a block.

    The index holds each registered block once, in addition to its other holders. A
    method that raises has changed nothing. Not thread-safe: index and pool belong to
    one engine thread.

    Attributes:
        pool: where the blocks live.
        block_tokens: tokens per block.
        queried_tokens: tokens passed to `match` so far.
        hit_tokens: tokens covered by what `match` returned so far.
    """

    def __init__(self, pool: BlockPool, block_tokens: int) -> None:
        """Start empty.

        Raises:
            ValueError: `block_tokens` is below 1.
        """
        if block_tokens < 1:
            raise ValueError(f"a block holds at least 1 token, not {block_tokens}")
        self.pool = pool
        self.block_tokens = block_tokens
        self.queried_tokens = 0
        self.hit_tokens = 0
        # Least recently used first. A walk touches its deepest entry first, so every
        # entry comes before its parent, and one pass from the front meets candidates
        # for eviction in the right order, even those whose children it just dropped.
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._registered: set[int] = set()

    def __len__(self) -> int:
        """Number of registered blocks."""
        return len(self._entries)

    def match(self, root: bytes, token_ids: Sequence[int]) -> Match:
        """The longest cached prefix of `token_ids` that consists of full blocks.

        The caller now holds the matched blocks once and gives them back by
        `pool.free(match.blocks)`.

        Raises:
            ValueError: a token id is no unsigned 32-bit integer.
        """
        path: list[bytes] = []
        for key in self._keys(root, token_ids):
            if key not in self._entries:
                break
            path.append(key)
        blocks = [self._entries[key].block for key in path]
        self.pool.share(blocks)
        self._touch(path)
        tokens = len(blocks) * self.block_tokens
        self.queried_tokens += len(token_ids)
        self.hit_tokens += tokens
        return Match(blocks, tokens)

    def insert(
        self, root: bytes, token_ids: Sequence[int], blocks: Sequence[int]
    ) -> None:
        """Register the full blocks of a prompt; `blocks[i]` holds its i-th block.

        Where a block is cached already, the cached one stays and the given one is
        ignored; so is whatever follows the last full block. The caller keeps its own
        hold on `blocks`, and must not change the registered ones any more.

        Raises:
            ValueError: there are fewer blocks than full blocks of tokens, a block to
                register is free, out of range or registered for another prefix, or a
                token id is no unsigned 32-bit integer.
        """
        full = len(token_ids) // self.block_tokens
        if len(blocks) < full:
            raise ValueError(
                f"{len(token_ids)} tokens fill {full} blocks of {self.block_tokens}, "
                f"but only {len(blocks)} blocks were given"
            )
        path = list(self._keys(root, token_ids))
        # Once one is missing, all that follow are: no entry lacks its parent.
        known = next((i for i, k in enumerate(path) if k not in self._entries), full)
        new = list(blocks[known:full])
        taken = sorted(self._registered.intersection(new))
        if taken or len(set(new)) < len(new):
            raise ValueError(
                f"a block can stand for one prefix only: of the blocks {new} to "
                f"register, {taken} stand for another, {len(new) - len(set(new))} "
                "are repetitions"
            )
        self.pool.share(new)
        self._registered.update(new)
        for i, block in enumerate(new, start=known):
            parent = path[i - 1] if i else None
            self._entries[path[i]] = _Entry(block, parent)
            if parent is not None:
                self._entries[parent].children += 1
        self._touch(path)

    def evict(self, n: int) -> int:
        """Free up to `n` blocks, least recently used first; how many became free.

        Only a block that nobody else holds and whose prefix has no cached
        continuation is dropped. Takes time proportional to the blocks dropped and
        those passed over because they, or continuations of theirs, are held.

        Raises:
            ValueError: `n` is negative.
        """
        if n < 0:
            raise ValueError(f"cannot evict {n} blocks")
        victims: list[bytes] = []
        for key, entry in self._entries.items():
            if len(victims) == n:
                break
            if entry.children or self.pool.refcount(entry.block) > 1:
                continue
            victims.append(key)
            if entry.parent is not None:
                self._entries[entry.parent].children -= 1
        blocks = [self._entries.pop(key).block for key in victims]
        self._registered.difference_update(blocks)
        self.pool.free(blocks)
        return len(blocks)

    def check_integrity(self) -> None:
        """Check entries, their order, and their blocks against each other.

        Raises:
            AssertionError: they disagree; the message gives blocks and numbers.
        """
        blocks = [e.block for e in self._entries.values()]
        assert len(set(blocks)) == len(blocks) and set(blocks) == self._registered, (
            f"{len(blocks)} entries, {len(set(blocks))} distinct blocks, "
            f"{len(self._registered)} registered"
        )
        children = Counter(e.parent for e in self._entries.values())
        position = {key: i for i, key in enumerate(self._entries)}
        for key, e in self._entries.items():
            held = self.pool.refcount(e.block)
            assert held >= 1, f"block {e.block} is registered but held {held}x"
            assert e.children == children[key], (
                f"block {e.block}: {e.children} children counted, "
                f"{children[key]} present"
            )
            above = len(position) if e.parent is None else position.get(e.parent, -1)
            assert position[key] < above, (
                f"block {e.block} at {position[key]} of {len(position)} in eviction "
                f"order, its parent at {above} (-1: missing)"
            )

    def _touch(self, path: Sequence[bytes]) -> None:
        for key in reversed(path):
            self._entries.move_to_end(key)

    def _keys(self, root: bytes, token_ids: Sequence[int]) -> Iterator[bytes]:
        full = len(token_ids) // self.block_tokens * self.block_tokens
        try:
            packed = struct.pack(f"<{full}I", *token_ids[:full])
        except struct.error as e:
            raise ValueError(f"token ids must be unsigned 32-bit integers: {e}") from e
        key, step = root, 4 * self.block_tokens
        for start in range(0, len(packed), step):
            block = packed[start : start + step]
            key = hashlib.blake2b(key + block, digest_size=32).digest()
            yield key
