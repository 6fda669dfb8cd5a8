"""Train one LoRA decoder: cache-conditioned, or the ordinary way as a baseline."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict

from prefillshare.errors import CheckpointError, PrefillShareError
from prefillshare.kv.identity import ModelId
from prefillshare.kv.layout import KVFormat
from prefillshare.models.decoder import Decoder, DecoderRecord
from prefillshare.models.loading import load_model, load_tokenizer
from prefillshare.training.checkpoint import load_checkpoint, save_checkpoint
from prefillshare.training.data import CaseFileData, ContextGroup, agent_named
from prefillshare.training.objective import learning_rate_factor, score_group
from prefillshare.training.settings import TrainSettings


@dataclass(frozen=True)
class StepLog:
    """One line of the metrics log. `loss` in nats per response token."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    seconds: float


Progress = Callable[[StepLog], None]


class Trainer:
    """Owns the frozen base, the decoder and the optimizer of one run."""

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings
        self.accelerator = Accelerator()
        torch.manual_seed(settings.seed)
        dtype = getattr(torch, settings.dtype)
        self.base = load_model(settings.model, dtype).to(self.accelerator.device)
        agent = agent_named(settings.agent)
        record = DecoderRecord(
            name=agent.name,
            model_id=ModelId.from_directory(settings.model).digest,
            prefill=settings.prefill,
            boundary=settings.boundary,
            suffix=agent.suffix,
            kv_formats=(KVFormat(settings.dtype).to_dict(),),
        )
        self.decoder = Decoder.create(self.base, record, self._lora())
        self.groups = CaseFileData("train", **settings.data.model_dump()).groups(
            load_tokenizer(settings.model), agent, settings.boundary
        )
        self.trained = [p for p in self.decoder.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=settings.learning_rate, weight_decay=0.0
        )
        self.step = 0

    def run(self, progress: Progress) -> Path:
        """Train to the last step and save the decoder; returns its directory.

        Raises:
            CheckpointError: state or decoder could not be written.
            PrefillShareError: the loss is not finite.
        """
        try:
            return self._run(progress)
        except OSError as error:
            raise CheckpointError(
                f"{self.settings.output} cannot be written: {error}; free space or "
                "choose another `output`, then start again: training resumes from the "
                "last whole checkpoint"
            ) from error

    def _run(self, progress: Progress) -> Path:
        settings = self.settings
        self._refuse_to_replace(settings.output / "decoder")
        if settings.resume:
            self._resume()
        with _MetricsLog(settings.output, self.step, self._is_main) as log:
            while self.step < settings.steps:
                entry = self._train_step()
                log.write(entry)
                progress(entry)
                if self.step % settings.checkpoint_every == 0:
                    self._checkpoint()
        if self._is_main:
            self.decoder.save(settings.output / "decoder")
        self.accelerator.wait_for_everyone()
        return settings.output / "decoder"

    @property
    def _is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def _lora(self) -> LoraConfig:
        lora = self.settings.lora
        return LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.targets,
            task_type="CAUSAL_LM",
        )

    def _train_step(self) -> StepLog:
        began = time.perf_counter()
        settings = self.settings
        self.decoder.model.train()
        factor = learning_rate_factor(
            self.step, warmup=settings.warmup_steps, steps=settings.steps
        )
        rate = settings.learning_rate * factor
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        loss = self._loss(self._group())
        if not torch.isfinite(loss):
            raise PrefillShareError(
                f"the loss is {loss.item()} at step {self.step}; lower learning_rate "
                f"(now {settings.learning_rate}) or use a wider dtype"
            )
        torch.autograd.backward(loss)
        self._average_gradients()
        torch.nn.utils.clip_grad_norm_(self.trained, settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        seconds = time.perf_counter() - began
        return StepLog(self.step, settings.steps, loss.item(), rate, seconds)

    def _loss(self, group: ContextGroup) -> torch.Tensor:
        own = self.settings.prefill == "own"
        prefill = self.decoder.model if own else self.base
        scores = score_group(prefill, self.decoder.model, group, train_prefill=own)
        return scores.loss()

    def _group(self) -> ContextGroup:
        """This process's context of this step; every epoch has an order of its own."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        index = self.step * world + rank
        epoch, at = divmod(index, len(self.groups))
        order = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + epoch)
        return self.groups[int(torch.randperm(len(self.groups), generator=order)[at])]

    def _average_gradients(self) -> None:
        # The adapters are small and the model runs several times a step, which a
        # gradient-bucketing wrapper does not allow.
        if self.accelerator.num_processes > 1:
            for parameter in self.trained:
                parameter.grad = self.accelerator.reduce(parameter.grad, "mean")

    def _refuse_to_replace(self, directory: Path) -> None:
        """A finished decoder is replaced by one of its own kind only."""
        if not directory.exists():
            return
        there, here = vars(DecoderRecord.load(directory)), vars(self.decoder.record)
        other = [k for k in here if k != "kv_formats" and there[k] != here[k]]
        if other:
            raise PrefillShareError(
                f"{directory} holds a decoder whose {', '.join(other)} differ from "
                "this run's; choose another `output`, or delete it"
            )

    def _checkpoint(self) -> None:
        if self._is_main:
            weights = get_peft_model_state_dict(self.decoder.model)
            state = {
                "step": self.step,
                "optimizer": self.optimizer.state_dict(),
                "rng": torch.get_rng_state(),
                "settings": self._resumable(),
            }
            save_checkpoint(self._checkpoint_directory, weights, state)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        loaded = load_checkpoint(self._checkpoint_directory)
        if loaded is None:
            return
        weights, state = loaded
        mine, theirs = json.loads(self._resumable()), json.loads(state["settings"])
        if other := [key for key in mine if mine[key] != theirs.get(key)]:
            differences = ", ".join(
                f"{key} ({theirs.get(key)} there, {mine[key]} here)" for key in other
            )
            raise PrefillShareError(
                f"{self._checkpoint_directory} belongs to a run with other settings: "
                f"{differences}; set `resume: false` or another `output`"
            )
        set_peft_model_state_dict(self.decoder.model, weights)
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        self.step = state["step"]

    @property
    def _checkpoint_directory(self) -> Path:
        return self.settings.output / "checkpoint"

    def _resumable(self) -> str:
        """What a resumed run must share: settings, and the base by its identity."""
        settings = self.settings.model_dump(
            mode="json", exclude={"model", "output", "checkpoint_every", "resume"}
        )
        return json.dumps({"model": self.decoder.record.model_id, **settings})


class _MetricsLog:
    """`metrics.jsonl`: one line a step; a resumed run drops the lines it repeats."""

    def __init__(self, output: Path, step: int, is_main: bool) -> None:
        self._path = output / "metrics.jsonl"
        self._step, self._is_main = step, is_main

    def __enter__(self) -> _MetricsLog:
        if self._is_main:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            kept = self._path.read_text().splitlines() if self._path.exists() else []
            # A step's line counts once the checkpoint covers it.
            kept = kept[: self._step]
            fresh = self._path.with_suffix(".partial")
            fresh.write_text("".join(line + "\n" for line in kept))
            fresh.replace(self._path)
            self._file = self._path.open("a")
        return self

    def write(self, entry: StepLog) -> None:
        if self._is_main:
            self._file.write(json.dumps(vars(entry)) + "\n")
            self._file.flush()

    def __exit__(self, *_: object) -> None:
        if self._is_main:
            self._file.close()
