"""A running service over a tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest
from transformers import PreTrainedModel

from prefillshare.kv.identity import ModelId
from prefillshare.serving.host import Host
from prefillshare.serving.launcher import Cluster
from prefillshare.transfer.agent.server import Agent
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.tcp.engine import TcpEngine
from tests.conftest import make_decoder
from tests.serving.bridged import Stage, make_stage
from tests.serving.service import serve_settings


@pytest.fixture(scope="module")
def decoders(
    tiny_model: PreTrainedModel,
    tiny_id: ModelId,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Two decoders on the shared prefill (one per boundary) and one on its own."""
    folder = tmp_path_factory.mktemp("decoders")
    made = {
        "shipping": make_decoder(tiny_model, tiny_id, suffix="you ship", seed=1),
        "invoicing": make_decoder(
            tiny_model, tiny_id, suffix="you bill", seed=2, boundary="suffix"
        ),
        "alone": make_decoder(
            tiny_model, tiny_id, suffix="you check", seed=3, prefill="own"
        ),
    }
    for name, decoder in made.items():
        decoder.save(folder / name)
    return {name: folder / name for name in made}


@pytest.fixture(scope="module")
def stage(
    tiny_directory: Path,
    tiny_model: PreTrainedModel,
    decoders: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Stage:
    folder = tmp_path_factory.mktemp("bridged")
    return make_stage(tiny_directory, tiny_model, decoders, folder)


@pytest.fixture
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """One for the workers that a test has in its own process."""
    path = tmp_path_factory.mktemp("agent") / "socket"
    made = Agent(str(path), TcpEngine(), Arena(256 << 20, writers=True))
    yield made
    made.close()


@pytest.fixture
def new_host(agent: Agent) -> Iterator[Callable[[], Host]]:
    """What a worker is given; each is closed after the test."""
    made: list[Host] = []

    def make() -> Host:
        made.append(Host(Path(agent.path)))
        return made[-1]

    yield make
    for host in made:
        host.close()


@pytest.fixture(scope="module")
def cluster(tiny_directory: Path, decoders: dict[str, Path]) -> Iterator[Cluster]:
    with Cluster(serve_settings(tiny_directory, decoders)) as running:
        yield running


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none") as client:
        yield client
