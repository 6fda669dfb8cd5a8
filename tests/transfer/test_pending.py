"""What a transport may rely on when it settles, and who waits when it does not."""

from __future__ import annotations

import pytest

from prefillshare.errors import TransferBroken, TransferClosed, TransferTimeout
from prefillshare.transfer import pending
from prefillshare.transfer.pending import Pending


class Counted(Pending):
    """Counts how often it was told to stop."""

    interrupts = 0

    def interrupt(self) -> None:
        self.interrupts += 1


def test_the_first_reason_to_stop_counts() -> None:
    transfer = Counted()
    transfer.stop(TransferBroken("first"))
    transfer.cancel()
    assert transfer.interrupts == 1 and not transfer.done
    transfer.settle(OSError("how the transport noticed"))
    with pytest.raises(TransferBroken, match="first"):
        transfer.wait()


def test_what_was_verified_before_it_stopped_is_well() -> None:
    transfer = Counted()
    transfer.announce(10, 2)
    transfer.cancel()
    transfer.count(10)
    transfer.settle()
    assert transfer.wait().bytes == 10 and transfer.progress == (10, 10)


def test_the_first_end_counts() -> None:
    transfer = Counted()
    transfer.settle()
    transfer.settle(TransferBroken("too late"))
    transfer.cancel()
    assert transfer.interrupts == 0
    transfer.wait()


def test_an_error_of_the_system_that_is_a_time_out_passes_through() -> None:
    transfer = Counted()
    transfer.settle(TimeoutError("of a defect"))
    with pytest.raises(TimeoutError, match="of a defect"):
        transfer.wait(1)


def test_a_transport_that_does_not_stop_is_not_waited_for_forever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pending, "STOP_SECONDS", 0.01)
    transfer = Counted()
    with pytest.raises(TransferTimeout, match="may still be touched"):
        transfer.wait(0.01)
    transfer.settle(TransferClosed("at last"))


def test_callbacks_that_fail_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("of the caller")

    transfer, called = Counted(), []
    transfer.add_done_callback(fail)
    transfer.add_done_callback(lambda: called.append(1))
    transfer.settle()
    assert called == [1] and "of the caller" in caplog.text
