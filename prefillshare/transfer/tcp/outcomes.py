"""Errors as frames, and back."""

from __future__ import annotations

from prefillshare.errors import (
    TransferBroken,
    TransferEnded,
    TransferError,
    TransferIdentityError,
    TransferIntegrityError,
    TransferRefused,
    TransferTimeout,
)
from prefillshare.transfer.tcp.frames import Code, Fail

_ERRORS: dict[Code, type[TransferError]] = {
    Code.REFUSED: TransferRefused,
    Code.ENDED: TransferEnded,
    Code.INTEGRITY: TransferIntegrityError,
    Code.TIMEOUT: TransferEnded,
    Code.BROKEN: TransferBroken,
}


def failure_of(frame: Fail) -> TransferError:
    """What the peer's frame means on this side."""
    text = f"the peer says: {frame.text.decode(errors='replace')!r}"
    try:
        return _ERRORS[Code(frame.code)](text)
    except ValueError:
        return TransferBroken(text)


def fail_of(transfer: int, error: Exception) -> Fail:
    """What to tell the peer of an error on this side."""
    match error:
        case TransferRefused() | TransferIdentityError():
            code = Code.REFUSED
        case TransferIntegrityError():
            code = Code.INTEGRITY
        case TransferTimeout():
            code = Code.TIMEOUT
        case TransferBroken():
            code = Code.BROKEN
        case _:
            code = Code.ENDED
    return Fail(transfer, code, str(error).encode(errors="replace")[:512])
