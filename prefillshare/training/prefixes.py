"""Keys and values of shared prefixes, kept across steps and epochs.

Bounded in memory and on disk; the least recently used goes first, from memory to
disk, then for good. The files lie in a temporary directory and go with the store.
"""

from __future__ import annotations

import logging
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from prefillshare.training.rows import Layers

logger = logging.getLogger(__name__)


class PrefixStore:
    """Prefixes of one prefill module, by their token ids."""

    def __init__(
        self, memory_bytes: int, disk_bytes: int = 0, folder: Path | None = None
    ) -> None:
        """`folder` is where the temporary directory is made, if disk may be used."""
        self._memory: OrderedDict[str, Layers] = OrderedDict()
        self._disk: OrderedDict[str, int] = OrderedDict()
        self._memory_bytes, self._disk_bytes = memory_bytes, disk_bytes
        self.used_memory = self.used_disk = 0
        self.hits = self.misses = 0
        # Where the layers were that lie on disk: all come of one model.
        self._device = torch.device("cpu")
        self._said_full = False
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        if disk_bytes:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            self._directory = tempfile.TemporaryDirectory(
                prefix="prefixes-", dir=folder
            )

    def __bool__(self) -> bool:
        """Whether it may hold anything."""
        return self._memory_bytes + self._disk_bytes > 0

    def get(self, ids: Sequence[int], compute: Callable[[], Layers]) -> Layers:
        """What is stored under `ids`, or what `compute` makes, which is then stored."""
        key = xxhash.xxh3_128_hexdigest(torch.tensor(ids).numpy().tobytes())
        layers = self._find(key)
        if layers is not None:
            self.hits += 1
            return layers
        self.misses += 1
        layers = compute()
        self._remember(key, layers)
        return layers

    def close(self) -> None:
        """Forget everything and delete the files."""
        self._memory.clear()
        self._disk.clear()
        self.used_memory = self.used_disk = 0
        if self._directory is not None:
            self._directory.cleanup()

    def _find(self, key: str) -> Layers | None:
        if key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key]
        if key not in self._disk:
            return None
        self._disk.move_to_end(key)
        held = {n: t.to(self._device) for n, t in load_file(self._file(key)).items()}
        count = len(held) // 2
        layers = tuple((held[f"k{i}"], held[f"v{i}"]) for i in range(count))
        self._remember(key, layers)
        return layers

    def _remember(self, key: str, layers: Layers) -> None:
        size = _bytes(layers)
        if size > self._memory_bytes:
            self._spill(key, layers)
            return
        while self.used_memory + size > self._memory_bytes:
            oldest, evicted = self._memory.popitem(last=False)
            self.used_memory -= _bytes(evicted)
            self._spill(oldest, evicted)
        self._memory[key] = layers
        self.used_memory += size

    def _spill(self, key: str, layers: Layers) -> None:
        size = _bytes(layers)
        if key in self._disk or size > self._disk_bytes:
            return
        while self.used_disk + size > self._disk_bytes:
            oldest, freed = self._disk.popitem(last=False)
            self._file(oldest).unlink()
            self.used_disk -= freed
        tensors = {f"k{i}": k.contiguous() for i, (k, _) in enumerate(layers)}
        tensors |= {f"v{i}": v.contiguous() for i, (_, v) in enumerate(layers)}
        try:
            save_file(tensors, self._file(key))
        except (OSError, SafetensorError) as error:
            self._give_up(key, error)
            return
        self._device = layers[0][0].device
        self._disk[key] = size
        self.used_disk += size

    def _give_up(self, key: str, error: Exception) -> None:
        """Nothing is lost: the prefix is computed again when it is needed."""
        self._file(key).unlink(missing_ok=True)
        if not self._said_full:
            self._said_full = True
            logger.warning(
                "a prefix could not be stored on disk: %s; such prefixes are computed "
                "again each time: free space, or lower `prefixes.disk_bytes`",
                error,
            )

    def _file(self, key: str) -> Path:
        assert self._directory is not None
        return Path(self._directory.name) / f"{key}.safetensors"


def _bytes(layers: Layers) -> int:
    return sum(t.numel() * t.element_size() for pair in layers for t in pair)
