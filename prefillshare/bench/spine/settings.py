"""What the spine trains, tests and serves."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from prefillshare.config import Config
from prefillshare.serving.settings import SiteLinkSettings
from prefillshare.tasks.casefile import AGENTS, CHAIN, DEPTHS, JUDGE, TUNING_AGENTS
from prefillshare.training.settings import CaseFiles

Prefill = Literal["shared", "own"]
# What is trained, and whose cache its decoders read; `tuned` is `shared` on the module
# of `SpineSettings.module`.
System = Literal["shared", "own", "tuned"]


class ServingSettings(Config):
    """The served part: contexts of `records` orders, each handed on by the agents.

    With `link`, the shared prefill module is in a site of its own, across that link,
    and KV is encrypted; without, all is in one site.
    """

    link: SiteLinkSettings | None = None
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
    """The experiment.

    Attributes:
        model: the base; null is SmolLM2-135M-Instruct from its package.
        module: a prefill module that was tuned to be read. Decoders on it are scored
            as `tuned`, and they are the ones that are served on a shared prefill.
        trained: decoders that are there already, as folders of `AGENT/decoder`; those
            systems are not trained again.
        agents: they hand a case on in this order.
    """

    model: Path | None = None
    module: Path | None = None
    trained: dict[System, Path] = {}
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
