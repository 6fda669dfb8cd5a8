"""Agents that hand a case on, asked through a running router: TTFT and prefills."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from prefillshare.errors import WorkerError
from prefillshare.tasks.casefile import Case, chain_messages, next_messages


@dataclass(frozen=True)
class Answer:
    """One streamed answer. Seconds from sending the request."""

    model: str
    text: str
    ttft_seconds: float
    total_seconds: float
    prompt_tokens: int
    cached_tokens: int


@dataclass
class SystemFigures:
    """What one system did over all contexts."""

    answers: list[Answer] = field(default_factory=list)

    @property
    def ttft(self) -> dict[str, float]:
        """Median and range of the time to first token over all requests."""
        times = [a.ttft_seconds for a in self.answers]
        return {
            "median": statistics.median(times),
            "min": min(times),
            "max": max(times),
        }

    def ttft_of_turn(self, turn: int, agents: int) -> float:
        """Median over the contexts for the agent asked first (0), second (1)…"""
        return statistics.median(a.ttft_seconds for a in self.answers[turn::agents])

    @property
    def context_prefills(self) -> int:
        """Requests whose context was computed: less than half the prompt was cached."""
        return sum(2 * a.cached_tokens < a.prompt_tokens for a in self.answers)

    @property
    def computed_tokens(self) -> int:
        """Prompt tokens that no prefix cache held."""
        return sum(a.prompt_tokens - a.cached_tokens for a in self.answers)


class AgentSession:
    """A client of one router."""

    def __init__(self, url: str, timeout: float = 300.0) -> None:
        self._http = httpx.Client(base_url=url, timeout=timeout, trust_env=False)

    def ask(self, model: str, messages: list[dict[str, str]], limit: int) -> Answer:
        """Stream one answer.

        Raises:
            WorkerError: the router answered with an error.
        """
        body = {
            "model": model,
            "messages": messages,
            "max_tokens": limit,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        began = time.perf_counter()
        first, text = 0.0, ""
        usage: dict[str, Any] = {}
        with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
            for event in _events(response):
                first = first or time.perf_counter() - began
                usage = event.get("usage") or usage
                for choice in event["choices"]:
                    text += choice["delta"].get("content", "")
        total = time.perf_counter() - began
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return Answer(model, text, first, total, usage["prompt_tokens"], cached)

    def stats(self) -> dict[str, Any]:
        """The workers' counters."""
        figures: dict[str, Any] = self._http.get("/stats").raise_for_status().json()
        return figures

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


def warm_up(
    systems: dict[str, AgentSession], agents: Sequence[str], case: Case
) -> None:
    """Every worker's first request, which no figure counts."""
    for session in systems.values():
        for agent in agents:
            session.ask(agent, list(chain_messages(case, case.questions[0])), 2)


def measure(
    systems: dict[str, AgentSession],
    agents: Sequence[str],
    cases: Sequence[Case],
    max_tokens: int,
) -> dict[str, SystemFigures]:
    """Put every case to the agents, the systems in turn.

    Each agent gets what the agents before it really answered. The order of the
    systems alternates from case to case, so that a drift of the machine does not
    count for one side.
    """
    figures = {name: SystemFigures() for name in systems}
    for i, case in enumerate(cases):
        names = list(systems) if i % 2 == 0 else list(reversed(systems))
        for name in names:
            messages = chain_messages(case, case.questions[0])
            for agent in agents:
                answer = systems[name].ask(agent, list(messages), max_tokens)
                figures[name].answers.append(answer)
                messages = next_messages(messages, answer.text)
    return figures


def serving_results(
    figures: dict[str, SystemFigures],
    agents: list[str],
    before: dict[str, Any],
    after: dict[str, Any],
) -> dict[str, Any]:
    """TTFT and prefills of both systems, and what their KV's moving took.

    `before` and `after` have each system's counters.
    """

    def moved(key: str, system: str = "shared") -> float:
        totals = [
            sum(float(d[key]) for d in side[system]["decoders"].values())
            for side in (before, after)
        ]
        return totals[1] - totals[0]

    seconds = moved("transfer_seconds")
    return {
        "ttft_seconds": {name: f.ttft["median"] for name, f in figures.items()},
        "ttft_range_seconds": {name: f.ttft for name, f in figures.items()},
        "ttft_by_turn_seconds": {
            name: [f.ttft_of_turn(turn, len(agents)) for turn in range(len(agents))]
            for name, f in figures.items()
        },
        "prefills": {name: f.context_prefills for name, f in figures.items()},
        "prefilled_tokens": {name: f.computed_tokens for name, f in figures.items()},
        "agents": agents,
        "served_contexts": len(figures["shared"].answers) // len(agents),
        "served_prompt_tokens": max(a.prompt_tokens for a in figures["shared"].answers),
        "bytes_moved": int(moved("bytes_moved")),
        "bytes_sealed": int(moved("bytes_sealed")),
        "bytes_moved_by_own": int(moved("bytes_moved", "own")),
        "transfer_gbps": moved("bytes_moved") * 8e-9 / seconds if seconds else 0.0,
    }


def _events(response: httpx.Response) -> Any:
    if response.status_code != 200:
        response.read()
        raise WorkerError(
            f"the router answered {response.status_code}: {response.text}"
        )
    for line in response.iter_lines():
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            raise WorkerError(event["error"]["message"])
        yield event
