"""Redis for every test that wants it, with nothing in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.transfer.discovery.server import Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as found:
        yield found
