"""The spine: train decoders, evaluate them, serve them, measure.

One experiment in three stages, each usable alone: `train_all`, `accuracy`, `serve`.
The demo is the same experiment in a smaller form.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefillshare.bench.spine.agents import (
    AgentSession,
    measure,
    serving_results,
    warm_up,
)
from prefillshare.bench.spine.chains import chain_accuracy
from prefillshare.bench.spine.settings import Prefill, SpineSettings, System
from prefillshare.evals.comparison import (
    Accuracy,
    ComparedTask,
    EvalSettings,
    compare,
    differences,
    summarise,
)
from prefillshare.evals.runner import DISTANCES, Scores
from prefillshare.evals.statistics import paired_difference
from prefillshare.report import progress, say
from prefillshare.serving.launcher import Cluster
from prefillshare.serving.settings import (
    DecoderSettings,
    ServeSettings,
    SiteSettings,
    SitesSettings,
)
from prefillshare.tasks.base import commonest_share
from prefillshare.tasks.casefile import Case, generate
from prefillshare.training.settings import BatchSettings, TrainSettings, build_task

SERVED: tuple[Prefill, ...] = ("shared", "own")


@dataclass(frozen=True)
class Spine:
    """The experiment over one model directory."""

    settings: SpineSettings
    model: Path

    def systems(self) -> list[System]:
        """What is trained or was."""
        tuned: list[System] = ["tuned"] if self.settings.module is not None else []
        return ["shared", "own", *tuned]

    def prefill_module(self, system: System) -> Path:
        """Whose cache the decoders of `system` read, as a model directory."""
        module = self.settings.module
        return module if system == "tuned" and module is not None else self.model

    def decoder(self, agent: str, system: System) -> Path:
        """Where a trained decoder lies."""
        folder = self.settings.trained.get(system, self.settings.output / system)
        return folder / agent / "decoder"

    def train_all(self) -> None:
        """All agents, each cache-conditioned and the ordinary way."""
        # Imported late: it brings accelerate, which serving alone does not need.
        from prefillshare.training.decoders import decoder_trainer

        for system in self.systems():
            if system in self.settings.trained:
                continue
            settings = self._training(system)
            title = f"training {len(settings.tasks)} agents, {system}"
            with progress(title, settings.steps) as tick:
                trainer = decoder_trainer(settings)
                trainer.run(lambda entry, t=tick: t(f"loss {entry.loss:.3f}"))  # type: ignore[misc]

    def accuracy(self) -> Accuracy:
        """All systems on held-out cases."""
        scores = self._compare("shared", own=True)
        if "tuned" in self.systems():
            scores["tuned"] = self._compare("tuned", own=False)["shared"]
        return scores

    def _compare(self, system: System, own: bool) -> Accuracy:
        tasks = [
            ComparedTask(
                task=self.settings.test.of(agent),
                shared=self.decoder(agent, system),
                own=self.decoder(agent, "own") if own else None,
            )
            for agent in self.settings.agents
        ]
        model = self.prefill_module(system)
        settings = EvalSettings(model=model, tasks=tasks, no_context=own)
        return compare(settings, say)

    def serve(self) -> dict[str, Any]:
        """Both systems side by side on this machine, asked in turn."""
        with ExitStack() as stack:
            sessions: dict[str, AgentSession] = {}
            for prefill in SERVED:
                cluster = stack.enter_context(Cluster(self._serving(prefill)))
                session = AgentSession(cluster.url)
                stack.callback(session.close)
                sessions[prefill] = session
            say("both systems are up: shared prefill, and one prefill per model")
            unmeasured, *cases = self._cases()
            agents = self.settings.agents
            warm_up(sessions, agents, unmeasured)
            before = {name: session.stats() for name, session in sessions.items()}
            figures = measure(sessions, agents, cases, self.settings.serving.max_tokens)
            after = {name: session.stats() for name, session in sessions.items()}
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

    def _training(self, system: System) -> TrainSettings:
        settings = self.settings
        return TrainSettings(
            model=self.prefill_module(system),
            output=settings.output / system,
            tasks=[settings.train.of(agent) for agent in settings.agents],
            prefill="own" if system == "own" else "shared",
            boundary=settings.boundary,
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            seed=settings.seed,
            batch=BatchSettings(),
            # Every figure of a run comes from that run.
            resume=False,
        )

    def _serving(self, prefill: Prefill) -> ServeSettings:
        tuned = prefill == "shared" and "tuned" in self.systems()
        system: System = "tuned" if tuned else prefill
        decoders = [
            DecoderSettings(name=agent, path=self.decoder(agent, system))
            for agent in self.settings.agents
        ]
        model = self.prefill_module(system)
        return ServeSettings(
            model=model, decoders=decoders, port=0, sites=self._sites(prefill)
        )

    def _sites(self, prefill: Prefill) -> SitesSettings | None:
        link = self.settings.serving.link
        if link is None or prefill == "own":
            return None
        return SitesSettings(
            prefill=SiteSettings(name="prefill"),
            decode=SiteSettings(name="decode"),
            link=link,
        )


def run_spine(
    settings: SpineSettings, model: Path, say_stage: Callable[[str], None] = say
) -> dict[str, Any]:
    """The whole experiment; returns its figures."""
    spine = Spine(settings, model)
    count = len(settings.agents)
    systems = ", ".join(spine.systems())
    say_stage(f"1/3 training {count} agents each way: {systems}")
    spine.train_all()
    say_stage("2/3 evaluating on held-out contexts")
    accuracy = spine.accuracy()
    say_stage("3/3 serving: prefill in one process, decoders in others, KV over TCP")
    return {
        "accuracy": summarise(accuracy),
        "commonest": {
            agent: commonest_share(build_task(settings.test.of(agent)).units("test"))
            for agent in settings.agents
        },
        "paired": _paired(accuracy),
        "exact_match_by_distance": _by_system(
            accuracy, lambda scores: scores.exact_by_distance(DISTANCES)
        ),
        "exact_match_by_depth": _by_system(accuracy, Scores.exact_by_depth),
        **spine.serve(),
    }


def _by_system(accuracy: Accuracy, rows: Callable[[Scores], Any]) -> dict[str, Any]:
    return {
        system: {task: rows(scores) for task, scores in tasks.items()}
        for system, tasks in accuracy.items()
        if system != "no_context"
    }


def _paired(accuracy: Accuracy) -> dict[str, Any]:
    """Every system against `shared` and, where decoders read a tuned module, that."""
    paired = differences(accuracy)
    if tuned := accuracy.get("tuned"):
        paired["full_minus_tuned"] = {
            task: vars(paired_difference(full.nll, tuned[task].nll, full.context))
            for task, full in accuracy["full"].items()
        }
    return paired
