"""The training configurations, as YAML gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from prefillshare.config import Config
from prefillshare.errors import DataError
from prefillshare.tasks.base import Task
from prefillshare.tasks.casefile import CaseFileTask, default_depths
from prefillshare.tasks.casefile.formats import Format
from prefillshare.tasks.gsm8k import Gsm8k
from prefillshare.tasks.humaneval import HumanEval
from prefillshare.tasks.recipes.recipe import Recipe
from prefillshare.tasks.toolcalls import ToolCalls


class CaseFiles(Config):
    """Generated case files: `questions` questions of one agent over each context.

    With `records_max`, the number of records runs evenly from `records` to it, so
    that contexts differ in length.
    """

    kind: Literal["casefile"] = "casefile"
    agent: str
    contexts: int = Field(64, ge=1)
    records: int = Field(18, ge=1)
    records_max: int | None = Field(None, ge=1)
    questions: int = Field(8, ge=1)
    depths: tuple[int, ...] = Field(
        default_factory=lambda known: default_depths(known.get("agent", ""))
    )
    seed: int = 0
    with_context: bool = True
    format: Format = "line"
    summaries: Path | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        try:
            self.task()
        except DataError as error:
            raise ValueError(str(error)) from error
        return self

    def task(self) -> CaseFileTask:
        """The task that these settings describe."""
        fields = self.model_dump(exclude={"kind"})
        return CaseFileTask(**fields)


TaskSettings = Annotated[
    CaseFiles | ToolCalls | Gsm8k | HumanEval | Recipe, Field(discriminator="kind")
]


def build_task(settings: TaskSettings) -> Task:
    """The task of a configuration."""
    return settings.task() if isinstance(settings, CaseFiles) else settings


class LoraSettings(Config):
    """Low-rank adapters; `targets` as PEFT names them.

    `trainable_tokens` are tokens of the tokenizer, reserved ones say, whose embeddings
    are learned too. In a task's suffix, with `boundary: suffix`, they are trainable
    tokens at the boundary: the decoder alone reads them.
    """

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    targets: str | list[str] = "all-linear"
    trainable_tokens: list[str] = []


class BatchSettings(Config):
    """What one step of one process reads.

    A unit is a shared context with its questions, a conversation, or one independent
    example. `units_per_pass` of them go through the model together; gradients are
    accumulated over the passes of a step.
    """

    units: int = Field(1, ge=1)
    units_per_pass: int | None = Field(None, ge=1)


class PrefixSettings(Config):
    """Shared prefixes that are kept across steps and epochs, in bytes."""

    memory_bytes: int = Field(2 << 30, ge=0)
    disk_bytes: int = Field(0, ge=0)


class RunSettings(Config):
    """What every training run has.

    `epochs` takes the place of `steps`: so often is the data of each decoder read, or
    of the longest of them.

    `compile` compiles what is trained with torch.compile, once for all shapes; the
    backend `inductor` needs a C++ compiler and Python's headers. Compiled models attend
    with dense masks.

    `matmul_precision` is torch's `set_float32_matmul_precision`: `medium` multiplies
    float32 matrices in bfloat16 where the processor can, `highest` never.

    `report_to` names trackers that accelerate knows (tensorboard, wandb, trackio, …),
    `none` for none. `push_to_hub` is the repository that the finished result is
    uploaded to; each of several decoders goes to `REPOSITORY-NAME`.
    """

    model: Path
    output: Path
    boundary: Literal["last_token", "suffix"] = "last_token"
    dtype: Literal["float64", "float32", "bfloat16"] = "float32"
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    method: Literal["lora", "full"] = "lora"
    lora: LoraSettings = LoraSettings()
    steps: int = Field(64, ge=1)
    epochs: float | None = Field(None, gt=0.0)
    learning_rate: float = Field(2e-3, gt=0.0)
    warmup_steps: int = Field(5, ge=0)
    weight_decay: float = Field(0.0, ge=0.0)
    max_grad_norm: float = Field(1.0, gt=0.0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    batch: BatchSettings = BatchSettings()
    prefixes: PrefixSettings = PrefixSettings()
    gradient_checkpointing: bool = False
    compile: bool = False
    compile_backend: str = "inductor"
    seed: int = 0
    checkpoint_every: int = Field(25, ge=1)
    resume: bool = True
    report_to: list[str] | str = []
    push_to_hub: str | None = None
    hub_private: bool = True

    def rate_of(self, parameter: str) -> float:
        """The learning rate, after warming up, of the parameter of this name."""
        return self.learning_rate


# Names of a bridge's parameters in a decoder's model begin so.
BRIDGE_PREFIX = "bridge."

# What a resumed run, or a result that is reused, may differ in: it bears on where a
# run works and whom it tells, not on what is learned.
FREE_SETTINGS = frozenset(
    {"model", "output", "checkpoint_every", "resume", "prefixes"}
    | {"report_to", "push_to_hub", "hub_private"}
)


class TrainSettings(RunSettings):
    """Decoders: one for `task`, or one for each of `tasks` over the same prefills.

    `prefill` says whose cache is read: `shared` is cache-conditioned fine-tuning on
    the frozen module's; `own` the ordinary fine-tune; `icarus` and `recompute` are
    the comparisons of that name (`training.schemes`). `path: one_pass` computes
    `shared` in one forward, for LoRA. With `mixture`, one decoder learns all tasks.

    `decoder_model` is another model whose weights the decoders start from, with its
    own tokenizer; on the shared prefill they read through `bridge`, which
    `prefillshare bridge fit` made and which they learn too; with `bridge_alone`,
    nothing else is learned. `bridge_learning_rate` is the bridge's, by default a tenth
    of `learning_rate`: its weights are fitted already, where LoRA's begin at nothing.
    """

    task: TaskSettings | None = None
    tasks: list[TaskSettings] = []
    mixture: bool = False
    prefill: Literal["shared", "own", "icarus", "recompute"] = "shared"
    recompute: tuple[int, int] | None = None
    decoder_model: Path | None = None
    bridge: Path | None = None
    bridge_alone: bool = False
    bridge_learning_rate: float | None = Field(None, gt=0.0)
    path: Literal["cached", "one_pass"] = "cached"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.task is None) == (not self.tasks):
            raise ValueError("set either `task` or a list of `tasks`")
        if (self.prefill == "recompute") != (self.recompute is not None):
            raise ValueError(
                "`prefill: recompute` and `recompute: [first, last]` go together"
            )
        if self.recompute is not None and not (
            0 <= self.recompute[0] < self.recompute[1]
        ):
            raise ValueError(
                f"`recompute: {list(self.recompute)}` names no layers; give the first "
                "and the one behind the last, as [10, 30]"
            )
        if self.path == "one_pass" and (
            self.method != "lora" or self.prefill != "shared"
        ):
            raise ValueError(
                "`path: one_pass` needs `method: lora` and `prefill: shared`"
            )
        if self.path == "one_pass" and self.compile:
            raise ValueError(
                "torch.compile cannot trace the hooks of `path: one_pass`; set "
                "`compile: false`, or `path: cached`, which trains the same"
            )
        self._require_bridgeable()
        return self

    def rate_of(self, parameter: str) -> float:
        """See `RunSettings`; a bridge has its own."""
        if not parameter.startswith(BRIDGE_PREFIX):
            return self.learning_rate
        return self.bridge_learning_rate or 0.1 * self.learning_rate

    def _require_bridgeable(self) -> None:
        other, shared = self.decoder_model is not None, self.prefill == "shared"
        if (self.bridge is not None) != (other and shared):
            raise ValueError(
                "`bridge` goes together with `decoder_model` and `prefill: shared`: it "
                "maps the prefill module's cache for another model"
            )
        if self.bridge is None and (self.bridge_alone or self.bridge_learning_rate):
            raise ValueError(
                "`bridge_alone` and `bridge_learning_rate` go with `bridge`; name the "
                "bridge"
            )
        if other and (self.prefill not in ("own", "shared") or self.path != "cached"):
            raise ValueError(
                f"`decoder_model` goes with `prefill: own` or `shared` and `path: "
                f"cached`, not with {self.prefill!r} and {self.path!r}"
            )

    def every_task(self) -> list[TaskSettings]:
        """One or several."""
        return self.tasks or ([self.task] if self.task is not None else [])


class PrefillSettings(RunSettings):
    """A prefill module that is tuned to be read, then frozen.

    `mode: mixture` trains it on all tasks with its own cache; `joint` trains it with
    one decoder a task, through the cache that those read. Those decoders are saved
    beside the module, with whole weights, as `NAME/decoder`.
    """

    tasks: list[TaskSettings] = Field(min_length=1)
    mode: Literal["mixture", "joint"] = "mixture"
