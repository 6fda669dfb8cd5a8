"""The spine: train decoders, evaluate them, serve them, measure.

One experiment in three stages, each usable alone: `train_all`, `accuracy`, `serve`.
The demo is the same experiment in a smaller form.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from prefillshare.bench.agents import AgentSession, SystemFigures, measure, warm_up
from prefillshare.bench.chains import chain_accuracy
from prefillshare.config import Config
from prefillshare.evals.comparison import (
    Accuracy,
    ComparedTask,
    EvalSettings,
    compare,
    differences,
    summarise,
)
from prefillshare.report import progress, say
from prefillshare.serving.launcher import Cluster
from prefillshare.serving.settings import DecoderSettings, ServeSettings
from prefillshare.tasks.casefile import (
    AGENTS,
    CHAIN,
    DEPTHS,
    JUDGE,
    TUNING_AGENTS,
    Case,
    generate,
)
from prefillshare.training.settings import BatchSettings, CaseFiles, TrainSettings

PREFILLS: tuple[Literal["shared", "own"], ...] = ("shared", "own")
DISTANCES = (0, 128, 256, 512, 1024, 2048, 4096)


class ServingSettings(Config):
    """The served part: contexts of `records` orders, each put to both agents."""

    contexts: int = Field(5, ge=1)
    records: int = Field(34, ge=1)
    max_tokens: int = Field(48, ge=1)
    seed: int = 5000


class CaseSettings(Config):
    """Generated case files; see `tasks.casefile.CaseFileTask`."""

    contexts: int = Field(128, ge=1)
    records: int = Field(18, ge=1)
    records_max: int | None = Field(None, ge=1)
    questions: int = Field(8, ge=1)
    seed: int = 0

    def of(self, agent: str) -> CaseFiles:
        """The same case files for every agent, at all its hand-off depths."""
        depths = DEPTHS.get(agent, (1,))
        return CaseFiles(agent=agent, depths=depths, **self.model_dump())


class HeldOutSettings(CaseSettings):
    """The test cases: fields as in training, seeds of their own."""

    contexts: int = Field(8, ge=1)
    seed: int = 1000


class SpineSettings(Config):
    """`model: null` is SmolLM2-135M-Instruct from its package.

    `agents` hand a case on in this order.
    """

    model: Path | None = None
    output: Path = Path("runs/spine")
    agents: list[str] = Field([agent.name for agent in CHAIN], min_length=1)
    steps: int = Field(120, ge=1)
    learning_rate: float = Field(2e-3, gt=0.0)
    seed: int = 0
    boundary: Literal["last_token", "suffix"] = "last_token"
    train: CaseSettings = CaseSettings()
    test: HeldOutSettings = HeldOutSettings()
    serving: ServingSettings = ServingSettings()

    @field_validator("agents")
    @classmethod
    def _can_hand_on(cls, agents: list[str]) -> list[str]:
        # The judge compares two answers, which nobody in a chain gives.
        possible = [name for name in (*AGENTS, *TUNING_AGENTS) if name != JUDGE.name]
        if unknown := [name for name in agents if name not in possible]:
            raise ValueError(
                f"{', '.join(unknown)} cannot stand in a chain; these can: "
                f"{', '.join(possible)}"
            )
        return agents


@dataclass(frozen=True)
class Spine:
    """The experiment over one model directory."""

    settings: SpineSettings
    model: Path

    def decoder(self, agent: str, prefill: str) -> Path:
        """Where a trained decoder lies."""
        return self.settings.output / prefill / agent / "decoder"

    def train_all(self) -> None:
        """All agents, each cache-conditioned and the ordinary way."""
        # Imported late: it brings accelerate, which serving alone does not need.
        from prefillshare.training.decoders import decoder_trainer

        for prefill in PREFILLS:
            settings = self._training(prefill)
            title = f"training {len(settings.tasks)} agents, {prefill} prefill"
            with progress(title, settings.steps) as tick:
                trainer = decoder_trainer(settings)
                trainer.run(lambda entry, t=tick: t(f"loss {entry.loss:.3f}"))  # type: ignore[misc]

    def accuracy(self) -> Accuracy:
        """All systems on held-out cases."""
        tasks = [
            ComparedTask(
                task=self.settings.test.of(agent),
                shared=self.decoder(agent, "shared"),
                own=self.decoder(agent, "own"),
            )
            for agent in self.settings.agents
        ]
        return compare(EvalSettings(model=self.model, tasks=tasks), say)

    def serve(self) -> dict[str, Any]:
        """Both systems side by side on this machine, asked in turn."""
        with ExitStack() as stack:
            sessions: dict[str, AgentSession] = {}
            for prefill in PREFILLS:
                cluster = stack.enter_context(Cluster(self._serving(prefill)))
                session = AgentSession(cluster.url)
                stack.callback(session.close)
                sessions[prefill] = session
            say("both systems are up: shared prefill, and one prefill per model")
            unmeasured, *cases = self._cases()
            agents = self.settings.agents
            warm_up(sessions, agents, unmeasured)
            before = sessions["shared"].stats()
            figures = measure(sessions, agents, cases, self.settings.serving.max_tokens)
            after = sessions["shared"].stats()
            results = serving_results(figures, agents, before, after)
            return results | {
                "chains": {
                    name: chain_accuracy(cases, agents, [a.text for a in each.answers])
                    for name, each in figures.items()
                }
            }

    def _cases(self) -> list[Case]:
        """One case to warm up with, and those that are measured."""
        serving = self.settings.serving
        return [
            generate("test", serving.seed + i, records=serving.records, questions=1)
            for i in range(serving.contexts + 1)
        ]

    def _training(self, prefill: Literal["shared", "own"]) -> TrainSettings:
        settings = self.settings
        return TrainSettings(
            model=self.model,
            output=settings.output / prefill,
            tasks=[settings.train.of(agent) for agent in settings.agents],
            prefill=prefill,
            boundary=settings.boundary,
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            seed=settings.seed,
            batch=BatchSettings(),
            # Every figure of a run comes from that run.
            resume=False,
        )

    def _serving(self, prefill: str) -> ServeSettings:
        decoders = [
            DecoderSettings(name=agent, path=self.decoder(agent, prefill))
            for agent in self.settings.agents
        ]
        return ServeSettings(model=self.model, decoders=decoders, port=0)


def run_spine(
    settings: SpineSettings, model: Path, say_stage: Callable[[str], None] = say
) -> dict[str, Any]:
    """The whole experiment; returns its figures."""
    spine = Spine(settings, model)
    count = len(settings.agents)
    say_stage(
        f"1/3 training {count} agents on the shared prefill, and {count} controls"
    )
    spine.train_all()
    say_stage("2/3 evaluating on held-out contexts")
    accuracy = spine.accuracy()
    say_stage("3/3 serving: prefill in one process, decoders in others, KV over TCP")
    return {
        "accuracy": summarise(accuracy),
        "paired": differences(accuracy),
        "exact_match_by_distance": {
            system: {
                task: scores.exact_by_distance(DISTANCES)
                for task, scores in tasks.items()
            }
            for system, tasks in accuracy.items()
            if system != "no_context"
        },
        "exact_match_by_depth": {
            system: {task: scores.exact_by_depth() for task, scores in tasks.items()}
            for system, tasks in accuracy.items()
            if system != "no_context"
        },
        **spine.serve(),
    }


def serving_results(
    figures: dict[str, SystemFigures],
    agents: list[str],
    before: dict[str, Any],
    after: dict[str, Any],
) -> dict[str, Any]:
    """TTFT and prefills of both systems; bytes and rate of the shared one's KV."""

    def moved(key: str) -> float:
        totals = [
            sum(float(d[key]) for d in side["decoders"].values())
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
        "transfer_gbps": moved("bytes_moved") * 8e-9 / seconds if seconds else 0.0,
    }
