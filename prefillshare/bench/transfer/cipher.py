"""What AES-256-GCM does on one core, with nothing else to do."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from prefillshare.bench.transfer.found import Found
from prefillshare.bench.transfer.one_core import SliceWorker
from prefillshare.bench.transfer.processes import Facts, workers
from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.bench.transfer.specs import Cipher
from prefillshare.transfer.base import Access
from prefillshare.transfer.secure.sealing import KEY_BYTES, TAG_BYTES

_HEAD = bytes(24)


class CipherWorker(SliceWorker):
    """Seals memory slice by slice into a staging buffer, and opens that into memory.

    As the engine does: its staging buffers remain in the caches, its memory does not.
    """

    def __init__(self, size: int, slice_bytes: int) -> None:
        super().__init__(size, slice_bytes)
        self._staging = memoryview(bytearray(self.step + TAG_BYTES))
        self._cipher = AESGCM(bytes(KEY_BYTES))

    def seal(self) -> Facts:
        """Seconds for all slices, and of processor time."""
        seal, staging = self._cipher.encrypt_into, self._staging

        def each(number: int, view: memoryview) -> None:
            seal(number.to_bytes(12, "big"), view, _HEAD, staging)

        return self.timed(each)

    def open(self) -> Facts:
        """The same for opening; `verified` says whether the last slice came back."""
        unseal, staging = self._cipher.decrypt_into, self._staging
        last = bytes(self.slices[-1])
        nonce = (len(self.slices) - 1).to_bytes(12, "big")

        def each(_: int, view: memoryview) -> None:
            unseal(nonce, staging, _HEAD, view)

        return self.timed(each) | {
            "verified": all(view == last for view in self.slices)
        }


def run_cipher(
    settings: TransferBenchSettings, spec: Cipher, number: int
) -> list[Found]:
    """Seal as "write", open as "read"; each once to warm up and once by the clock."""
    with workers("cipher") as (worker,):
        worker("begin", size=settings.total_bytes, slice_bytes=spec.slice_bytes)
        worker("seal")
        sealed = worker("seal")
        worker("open")
        opened = worker("open")
    both: list[tuple[Access, Facts]] = [("write", sealed), ("read", opened)]
    return [
        Found(
            shape="contiguous",
            direction=direction,
            gbps=facts["bytes"] * 8 / facts["seconds"] / 1e9,
            cpu_seconds_per_gb=facts["cpu"] / facts["bytes"] * 1e9,
            verified=opened["verified"],
        )
        for direction, facts in both
    ]
