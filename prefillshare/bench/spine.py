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

from pydantic import Field

from prefillshare.bench.agents import AgentSession, SystemFigures, measure, warm_up
from prefillshare.config import Config
from prefillshare.evals.comparison import (
    Accuracy,
    EvalSettings,
    TaskSettings,
    compare,
    differences,
    summarise,
)
from prefillshare.report import progress, say
from prefillshare.serving.launcher import Cluster
from prefillshare.serving.settings import DecoderSettings, ServeSettings
from prefillshare.tasks.casefile import Case, generate
from prefillshare.training.settings import DataSettings, TrainSettings

AGENTS: tuple[Literal["shipping", "invoicing"], ...] = ("shipping", "invoicing")
PREFILLS: tuple[Literal["shared", "own"], ...] = ("shared", "own")
DISTANCES = (0, 128, 256, 512, 1024, 2048, 4096)


class ServingSettings(Config):
    """The served part: contexts of `records` orders, each put to both agents."""

    contexts: int = Field(5, ge=1)
    records: int = Field(34, ge=1)
    max_tokens: int = Field(48, ge=1)
    seed: int = 5000


class HeldOutSettings(DataSettings):
    """The test cases: fields as in training, seeds of their own."""

    contexts: int = Field(8, ge=1)
    seed: int = 1000


class SpineSettings(Config):
    """`model: null` is SmolLM2-135M-Instruct from its package."""

    model: Path | None = None
    output: Path = Path("runs/spine")
    steps: int = Field(120, ge=1)
    learning_rate: float = Field(2e-3, gt=0.0)
    seed: int = 0
    boundary: Literal["last_token", "suffix"] = "last_token"
    train: DataSettings = DataSettings(contexts=128)
    test: HeldOutSettings = HeldOutSettings()
    serving: ServingSettings = ServingSettings()


@dataclass(frozen=True)
class Spine:
    """The experiment over one model directory."""

    settings: SpineSettings
    model: Path

    def decoder(self, agent: str, prefill: str) -> Path:
        """Where a trained decoder lies."""
        return self.settings.output / f"{agent}-{prefill}" / "decoder"

    def train_all(self) -> None:
        """Both agents, each cache-conditioned and the ordinary way."""
        # Imported late: it brings accelerate, which serving alone does not need.
        from prefillshare.training.trainer import Trainer

        for prefill in PREFILLS:
            for agent in AGENTS:
                settings = self._training(agent, prefill)
                title = f"training {agent}, {prefill} prefill"
                with progress(title, settings.steps) as tick:
                    trainer = Trainer(settings)
                    trainer.run(lambda entry, t=tick: t(f"loss {entry.loss:.3f}"))  # type: ignore[misc]

    def accuracy(self) -> Accuracy:
        """All systems on held-out cases."""
        tasks = [
            TaskSettings(
                agent=agent,
                shared=self.decoder(agent, "shared"),
                own=self.decoder(agent, "own"),
            )
            for agent in AGENTS
        ]
        test = self.settings.test.model_dump()
        return compare(EvalSettings(model=self.model, tasks=tasks, **test), say)

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
            warm_up(sessions, AGENTS, unmeasured)
            before = sessions["shared"].stats()
            figures = measure(sessions, AGENTS, cases, self.settings.serving.max_tokens)
            return serving_results(figures, before, sessions["shared"].stats())

    def _cases(self) -> list[Case]:
        """One case to warm up with, and those that are measured."""
        serving = self.settings.serving
        return [
            generate("test", serving.seed + i, records=serving.records, questions=1)
            for i in range(serving.contexts + 1)
        ]

    def _training(
        self, agent: Literal["shipping", "invoicing"], prefill: Literal["shared", "own"]
    ) -> TrainSettings:
        settings = self.settings
        return TrainSettings(
            model=self.model,
            output=settings.output / f"{agent}-{prefill}",
            agent=agent,
            prefill=prefill,
            boundary=settings.boundary,
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            seed=settings.seed,
            data=settings.train,
            # Every figure of a run comes from that run.
            resume=False,
        )

    def _serving(self, prefill: str) -> ServeSettings:
        decoders = [
            DecoderSettings(name=agent, path=self.decoder(agent, prefill))
            for agent in AGENTS
        ]
        return ServeSettings(model=self.model, decoders=decoders, port=0)


def run_spine(
    settings: SpineSettings, model: Path, say_stage: Callable[[str], None] = say
) -> dict[str, Any]:
    """The whole experiment; returns its figures."""
    spine = Spine(settings, model)
    say_stage("1/3 training two agents on the shared prefill, and two controls")
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
        **spine.serve(),
    }


def serving_results(
    figures: dict[str, SystemFigures], before: dict[str, Any], after: dict[str, Any]
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
            name: [f.ttft_of_turn(turn, len(AGENTS)) for turn in range(len(AGENTS))]
            for name, f in figures.items()
        },
        "prefills": {name: f.context_prefills for name, f in figures.items()},
        "prefilled_tokens": {name: f.computed_tokens for name, f in figures.items()},
        "served_contexts": len(figures["shared"].answers) // len(AGENTS),
        "served_prompt_tokens": max(a.prompt_tokens for a in figures["shared"].answers),
        "bytes_moved": int(moved("bytes_moved")),
        "transfer_gbps": moved("bytes_moved") * 8e-9 / seconds if seconds else 0.0,
    }
