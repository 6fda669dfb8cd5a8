"""What protects one slice: a fast checksum, or encryption whose tag is the checksum."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from xxhash import xxh3_64

from prefillshare.errors import TransferIntegrityError

TAG_BYTES = 16
KEY_BYTES = 32


class Guard(Protocol):
    """Protects the slices of one transfer, and checks them at the other end.

    `head` is covered by the tag as well; `sequence` is never used twice for one key.
    With `staged`, a slice is received into a buffer of TAG_BYTES more than its length,
    and comes to its place by `verify`; otherwise it is received where it belongs.
    """

    staged: bool

    def protect(
        self,
        head: bytes,
        sequence: int,
        views: list[memoryview],
        staging: bytearray,
    ) -> tuple[bytes, list[memoryview]]:
        """The tag (16 bytes) of a slice, and what to send for it.

        `staging` has room for the slice and TAG_BYTES, if `staged`.
        """

    def verify(
        self,
        head: bytes,
        sequence: int,
        tag: bytes,
        views: list[memoryview],
        received: memoryview | None,
    ) -> None:
        """Raise `TransferIntegrityError` unless the slice is what was protected.

        If it is staged, its bytes are put into `views`, which hold anything after an
        error.
        """


class Checksum:
    """xxh3 of head and payload: finds what got damaged, not who did it."""

    staged = False

    def protect(
        self,
        head: bytes,
        sequence: int,
        views: list[memoryview],
        staging: bytearray,
    ) -> tuple[bytes, list[memoryview]]:
        """See `Guard.protect`; the payload is sent from where it lies."""
        return _digest(head, views), views

    def verify(
        self,
        head: bytes,
        sequence: int,
        tag: bytes,
        views: list[memoryview],
        received: memoryview | None,
    ) -> None:
        """See `Guard.verify`."""
        if _digest(head, views) != tag:
            raise TransferIntegrityError("checksum mismatch in a slice")


def _digest(head: bytes, views: Sequence[memoryview]) -> bytes:
    hasher = xxh3_64(head)
    # No statement of Python's for each of thousands of small pieces.
    deque(map(hasher.update, views), maxlen=0)
    return hasher.digest().rjust(TAG_BYTES, b"\0")


class Sealed:
    """AES-256-GCM (NIST SP 800-38D), its nonce the direction and the sequence number.

    `key` has 32 bytes and is of one transfer; `from_lender` says which side sends.
    """

    staged = True

    def __init__(self, key: bytes, *, from_lender: bool) -> None:
        self._cipher = AESGCM(key)
        self._direction = b"lend" if from_lender else b"take"

    def protect(
        self,
        head: bytes,
        sequence: int,
        views: list[memoryview],
        staging: bytearray,
    ) -> tuple[bytes, list[memoryview]]:
        """See `Guard.protect`; pieces are joined, since the cipher takes one buffer."""
        plain = views[0] if len(views) == 1 else b"".join(views)
        size = len(plain)
        sealed = memoryview(staging)[: size + TAG_BYTES]
        self._cipher.encrypt_into(self._nonce(sequence), plain, head, sealed)
        return bytes(sealed[size:]), [sealed[:size]]

    def verify(
        self,
        head: bytes,
        sequence: int,
        tag: bytes,
        views: list[memoryview],
        received: memoryview | None,
    ) -> None:
        """See `Guard.verify`."""
        if received is None:
            raise ValueError("a sealed slice is received into a staging buffer")
        received[-TAG_BYTES:] = tag
        nonce = self._nonce(sequence)
        try:
            if len(views) == 1:
                self._cipher.decrypt_into(nonce, received, head, views[0])
                return
            plain = memoryview(self._cipher.decrypt(nonce, received, head))
        except InvalidTag as error:
            raise TransferIntegrityError(
                "a slice is not what the peer sealed"
            ) from error
        at = 0
        for view in views:
            view[:] = plain[at : at + view.nbytes]
            at += view.nbytes

    def _nonce(self, sequence: int) -> bytes:
        return self._direction + sequence.to_bytes(8, "big")


def guard_of(sealed: bool, key: bytes, *, from_lender: bool) -> Guard:
    """What protects a transfer's slices; the key counts only if they are sealed."""
    return Sealed(key, from_lender=from_lender) if sealed else Checksum()
