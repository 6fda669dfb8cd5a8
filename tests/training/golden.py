"""A recorded training trajectory. To record it anew, and see what changed:

OMP_NUM_THREADS=1 python -m tests.training.golden
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from prefillshare.models.tiny import save_tiny_model
from prefillshare.runtime import cpu_model, installed_version
from prefillshare.training.decoders import decoder_trainer
from prefillshare.training.metrics import StepLog
from prefillshare.training.settings import (
    BatchSettings,
    CaseFiles,
    LoraSettings,
    TrainSettings,
)
from tests.training.conftest import exact_norm

FILE = Path(__file__).with_name("golden.json")
STEPS, EVERY = 50, 10


def environment() -> dict[str, Any]:
    """What bits may depend on."""
    packages = ("torch", "transformers", "peft", "numpy")
    return {
        **{package: installed_version(package) for package in packages},
        "python": platform.python_version(),
        "cpu": " ".join([cpu_model(), *_family()]),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def _family() -> list[str]:
    """What kernels are chosen by, as Linux gives it: a model's name says too little."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    fields = (line.partition(":") for line in lines)
    known = {name.strip(): value.strip() for name, _, value in fields}
    return [
        f"{x} {known[x]}" for x in ("cpu family", "model", "stepping") if x in known
    ]


def trajectory(folder: Path) -> dict[str, Any]:
    """Train a LoRA decoder in fp64: the loss of every step, the weights of some."""
    trainer = decoder_trainer(_settings(_save_model(folder / "model"), folder / "run"))
    losses: list[float] = []
    weights: dict[str, Any] = {}
    trained = trainer.experiment.learners[0].trained
    _draw([each for name, each in trained.items() if "lora_A" in name], width=0.25)

    def follow(entry: StepLog) -> None:
        losses.append(entry.loss)
        if entry.step % EVERY == 0:
            weights[str(entry.step)] = _summary(trained)

    trainer.run(follow)
    return {"losses": losses, "weights": weights}


def _settings(model: Path, output: Path) -> TrainSettings:
    return TrainSettings(
        model=model,
        output=output,
        task=CaseFiles(agent="shipping", contexts=6, records=3, questions=2),
        dtype="float64",
        steps=STEPS,
        learning_rate=1e-2,
        lora=LoraSettings(rank=2, alpha=4),
        batch=BatchSettings(units=2, units_per_pass=1),
    )


def _save_model(directory: Path) -> Path:
    """The tiny model with drawn weights."""
    save_tiny_model(directory, dtype=torch.float64)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(directory)
    _draw([each for each in model.parameters() if each.dim() > 1], width=0.125)
    model.save_pretrained(directory)
    return directory


def _draw(weights: Iterable[torch.nn.Parameter], width: float) -> None:
    """Weights that every processor draws alike: initialisers round as kernels do."""
    generator = torch.Generator().manual_seed(0)
    for weight in weights:
        drawn = torch.rand(weight.shape, generator=generator).double()
        weight.data = (drawn - 0.5) * width


def _summary(weights: dict[str, torch.nn.Parameter]) -> dict[str, Any]:
    """Bytes by their digest; numbers by norms and by sums with unequal signs."""
    digest = hashlib.sha256()
    norms, sums = [], []
    for _, weight in sorted(weights.items()):
        flat = weight.detach().flatten()
        digest.update(flat.numpy().tobytes())
        signs = torch.arange(1, len(flat) + 1, dtype=flat.dtype).cos()
        norms.append(flat.norm().item())
        sums.append((flat * signs).sum().item())
    return {"sha256": digest.hexdigest(), "norms": norms, "sums": sums}


def numbers(recorded: dict[str, Any]) -> list[float]:
    """All that is compared within a band."""
    summaries = recorded["weights"].values()
    weights = [x for each in summaries for x in each["norms"] + each["sums"]]
    return [*recorded["losses"], *weights]


def main() -> int:
    """Write `golden.json`; says what it was and is."""
    torch.set_num_threads(1)
    setattr(LlamaRMSNorm, "forward", exact_norm)  # noqa: B010
    before = json.loads(FILE.read_text()) if FILE.exists() else None
    with tempfile.TemporaryDirectory() as folder:
        after = {"environment": environment(), **trajectory(Path(folder))}
    FILE.write_text(json.dumps(after, indent=1) + "\n")
    if before is not None:
        pairs = zip(numbers(before), numbers(after), strict=True)
        largest = max(abs(a - b) for a, b in pairs)
        sys.stdout.write(f"largest difference: {largest}\n")
        for key, value in after["environment"].items():
            there = before["environment"].get(key)
            sys.stdout.write(f"{key}: {there} -> {value}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
