"""Data connections: one is welcome only once it is taken."""

from __future__ import annotations

import pytest

from prefillshare.errors import TransferBroken
from prefillshare.transfer.tcp.engine import TcpEngine
from tests.transfer.networked import SETTINGS


def test_a_stream_that_was_there_before_is_not_welcome() -> None:
    lender, mover = TcpEngine(settings=SETTINGS), TcpEngine(settings=SETTINGS)
    try:
        link = mover.connect(lender.address)
        session = link._session
        assert session is not None
        again = SETTINGS.streams
        with pytest.raises(TransferBroken, match=f"takes no stream {again}"):
            link._dialler.dial_stream(session.agreed, again, 5.0)
        assert len(link.streams()) == SETTINGS.streams
    finally:
        mover.close()
        lender.close()
