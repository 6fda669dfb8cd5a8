"""What the training benchmark trains on: examples of exact token counts.

Ids are drawn from the whole vocabulary, so no two examples have more in common than
a scenario says. What a step costs depends on how many tokens there are, not on which.
"""

from __future__ import annotations

import random

from pydantic import Field

from prefillshare.config import Config
from prefillshare.models.prompt import Prompt
from prefillshare.training.data import Example, Group


class Scenario(Config):
    """Prompts and responses of one shape.

    A prompt is `shared` tokens that all examples of the run begin with, then `prompt`
    tokens of its own. `examples` of them make one optimizer step. `target_ratio` is
    the speed aimed at, in multiples of TRL's.
    """

    name: str
    shared: int = Field(0, ge=0)
    prompt: int = Field(ge=2)
    response: int = Field(ge=1)
    examples: int = Field(4, ge=1)
    target_ratio: float | None = Field(None, gt=0.0)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of prompts and responses: what the user's data set holds."""
        return self.examples * (self.shared + self.prompt + self.response)


def generate(scenario: Scenario, steps: int, vocabulary: int, seed: int) -> list[Group]:
    """`steps * scenario.examples` distinct examples, as units.

    Examples over a shared context are one unit a step, independent ones a unit each.
    """
    source = random.Random(f"{scenario.name}/{seed}")

    def draw(count: int) -> tuple[int, ...]:
        return tuple(source.randrange(vocabulary) for _ in range(count))

    context = draw(scenario.shared)
    examples = [
        _example(context + draw(scenario.prompt), draw(scenario.response))
        for _ in range(steps * scenario.examples)
    ]
    size = units_of(scenario)[1]
    return [tuple(examples[i : i + size]) for i in range(0, len(examples), size)]


def units_of(scenario: Scenario) -> tuple[int, int]:
    """Units a step, and examples a unit."""
    return (1, scenario.examples) if scenario.shared else (scenario.examples, 1)


def _example(prompt: tuple[int, ...], response: tuple[int, ...]) -> Example:
    at = len(prompt) - 1
    return Example(Prompt(prompt, boundary=at, shared_tokens=at), response)
