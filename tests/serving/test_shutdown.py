"""Dead workers, signals, and what is left afterwards: nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import httpx
import openai
import pytest

from prefillshare.errors import CapacityError
from prefillshare.serving.launcher import Cluster
from prefillshare.serving.sites import arena_bytes
from prefillshare.transfer.agent.client import AgentEngine
from tests.serving.service import MESSAGES, serve_settings, unheld
from tests.transfer.pairs import until


def test_a_dead_prefill_worker_is_an_error_and_nothing_is_left_behind(
    tiny_directory: Path, decoders: dict[str, Path]
) -> None:
    chosen = {name: decoders[name] for name in ("shipping", "alone")}
    with Cluster(serve_settings(tiny_directory, chosen)) as running:
        prefill = next(r for r in running.roles if r.name == "prefill worker")
        os.killpg(prefill.process.pid, signal.SIGKILL)
        prefill.process.wait(10)
        with openai.OpenAI(
            base_url=f"{running.url}/v1", api_key="none", max_retries=0
        ) as client:
            with pytest.raises(openai.InternalServerError, match="prefill worker"):
                client.chat.completions.create(model="shipping", messages=MESSAGES)
            # What does not need it goes on.
            answer = client.chat.completions.create(
                model="alone", messages=MESSAGES, max_tokens=2
            )
            assert answer.usage is not None
        assert any("prefill worker" in sentence for sentence in running.check())
        ports = [role.url for role in running.roles if role.url.startswith("http")]
    assert all(role.process.poll() is not None for role in running.roles)
    for url in ports:
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health", trust_env=False)


def test_a_dead_decode_worker_or_agent_is_an_error_and_what_they_held_is_freed(
    tiny_directory: Path, decoders: dict[str, Path]
) -> None:
    settings = serve_settings(tiny_directory, {"shipping": decoders["shipping"]})
    with Cluster(settings) as running:
        roles = {role.name: role for role in running.roles}

        def kill(name: str) -> None:
            os.killpg(roles[name].process.pid, signal.SIGKILL)
            roles[name].process.wait(10)

        def fails(said: str) -> None:
            with openai.OpenAI(
                base_url=f"{running.url}/v1", api_key="none", max_retries=0
            ) as client:
                with pytest.raises(openai.InternalServerError, match=said):
                    client.chat.completions.create(model="shipping", messages=MESSAGES)

        def none_held() -> bool:
            stats = httpx.get(
                f"{roles['prefill worker'].url}/stats",
                headers={"authorization": f"Bearer {running.token}"},
                trust_env=False,
            ).json()
            return unheld(stats) == settings.prefill_blocks

        kill("decode worker 'shipping'")
        fails("decode worker")
        # The lease lasts minutes: without the router's word it would still be lent.
        until(none_held)
        path = Path(running._folder.name) / "agent.sock"
        with closing(AgentEngine(str(path))) as engine:
            until(lambda: fits(engine, arena_bytes(settings)["decode"]))
        kill("agent")
        fails("prefill worker.*the agent is gone")
        until(none_held)


def fits(engine: AgentEngine, size: int) -> bool:
    try:
        engine.allocate(size)
    except CapacityError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_serve_all_ends_with_all_its_processes(
    tiny_directory: Path,
    decoders: dict[str, Path],
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    """SIGKILL too: workers notice that their launcher is gone."""
    config = tmp_path / "serve.yaml"
    chosen = {"shipping": decoders["shipping"]}
    config.write_text(serve_settings(tiny_directory, chosen).model_dump_json())
    process = subprocess.Popen(
        [sys.executable, "-m", "prefillshare", "serve", "all", "--config", str(config)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    with process.stdout:
        assert "starting a router" in process.stdout.readline()
        line = process.stdout.readline()
        assert "serving shipping at http://127.0.0.1:" in line
        children = children_of(process.pid)
        assert len(children) == 4
        process.send_signal(number)
        status = process.wait(30)
    assert status == (0 if number != signal.SIGKILL else -signal.SIGKILL)
    deadline = time.monotonic() + 30
    while any(is_running(pid) for pid in children):
        assert time.monotonic() < deadline, "a worker outlived its launcher"
        os.sched_yield()
    if number != signal.SIGKILL:
        assert [p.name for p in tmp_path.iterdir()] == ["serve.yaml"]


def children_of(pid: int) -> list[int]:
    return [
        int(child)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ]


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"
