"""What fuzzing has kept is harmless: named errors, no defect, and bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest

from prefillshare.transfer.secure.identity import PeerIdentity
from tests.transfer.fuzz.__main__ import CORPUS
from tests.transfer.fuzz.seeds import seeds
from tests.transfer.fuzz.signing import let_in
from tests.transfer.fuzz.targets import BOUNDS, TARGETS


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("name", list(TARGETS))
def test_the_corpus_holds(name: str, traced: None) -> None:
    paths = sorted((CORPUS / name).iterdir())
    assert paths
    # What is made once, for all inputs of a target.
    TARGETS[name](paths[0].read_bytes())
    for path in paths:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        TARGETS[name](path.read_bytes())
        assert tracemalloc.get_traced_memory()[1] - before < BOUNDS[name], path


def test_the_seeds_are_in_the_corpus() -> None:
    for target, inputs in seeds().items():
        kept = {path.read_bytes() for path in (CORPUS / target).iterdir()}
        assert set(inputs.values()) <= kept, f"run tests.transfer.fuzz.seeds: {target}"


def test_only_one_uri_lets_a_certificate_in() -> None:
    who = {name: let_in(data) for name, data in seeds()["certificate"].items()}
    assert who.pop("host") == PeerIdentity("eu", "a", "host")
    assert set(who.values()) == {None}
