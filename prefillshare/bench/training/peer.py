"""The other side of the training benchmark: TRL's SFTTrainer.

It gets what suits it: examples of equal length, so that nothing is padded and packing,
whose padding-free attention needs a GPU kernel of its own, would gain nothing;
torch's causal attention without a mask; its fused language model head, which projects
response tokens only. Loss on completions only.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig
from transformers import TrainerCallback

from prefillshare.bench.training.data import units_of
from prefillshare.errors import ConfigError
from prefillshare.models.loading import load_model, load_tokenizer
from prefillshare.training.schedule import Schedule

if TYPE_CHECKING:
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig

    from prefillshare.bench.training.work import Found, Work


def require_trl() -> None:
    """Raise `ConfigError` if there is nothing to compare with."""
    if importlib.util.find_spec("trl") is None:
        raise ConfigError(
            "training speed is measured against TRL, which is not installed: "
            "pip install -e '.[bench]' in a checkout"
        )


def trl(work: Work, folder: Path) -> Found:
    """Train with TRL and time it."""
    require_trl()
    from trl.trainer.sft_trainer import SFTTrainer

    from prefillshare.bench.training.work import Laps

    laps = Laps(work.run.warmup_steps)

    class Watched(SFTTrainer):
        def training_step(
            self, model: Any, inputs: dict[str, Any], *rest: Any, **options: Any
        ) -> torch.Tensor:
            tokens = int(inputs["attention_mask"].sum())
            step: Any = super().training_step
            loss: torch.Tensor = step(model, inputs, *rest, **options)
            laps.tokens.append(tokens)
            laps.losses.append(loss.item())
            return loss

    class Timed(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            laps.step_ended()

    torch.set_float32_matmul_precision(work.run.matmul_precision)
    model = load_model(work.model, torch.float32).requires_grad_(True)
    trainer = Watched(
        model=model,
        args=_arguments(work, folder),
        train_dataset=dataset(work),
        processing_class=load_tokenizer(work.model),
        peft_config=_adapter(work),
        callbacks=[Timed()],
    )
    trainer.train()
    return laps.found()


def dataset(work: Work) -> Dataset:
    """The same examples in the order in which our trainer reads them, tokenised."""
    from datasets import Dataset

    units, _ = units_of(work.scenario)
    schedule = Schedule(work.groups(), units, 1, work.run.seed)
    examples = [
        example
        for step in range(work.steps)
        for group in schedule.of(step, 0)
        for example in group
    ]
    return Dataset.from_dict(
        {
            "input_ids": [[*e.prompt.token_ids, *e.response] for e in examples],
            "completion_mask": [
                [0] * len(e.prompt.token_ids) + [1] * len(e.response) for e in examples
            ],
        }
    )


def _arguments(work: Work, folder: Path) -> SFTConfig:
    from trl.trainer.sft_config import SFTConfig

    return SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=work.scenario.examples,
        max_steps=work.steps,
        learning_rate=work.run.learning_rate,
        lr_scheduler_type="cosine",
        optim="adamw_torch_fused",
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=False,
        gradient_checkpointing=work.trainer == "trl_checkpointed",
        completion_only_loss=True,
        max_length=None,
        train_sampling_strategy="sequential",
        torch_compile=work.run.compile,
        seed=work.run.seed,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
    )


def _adapter(work: Work) -> LoraConfig | None:
    if work.run.method == "full":
        return None
    lora = work.run.lora
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        task_type="CAUSAL_LM",
    )
