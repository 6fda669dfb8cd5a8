"""Bridges on disk: `bridge.json` and `bridge.safetensors`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from prefillshare.errors import CheckpointError
from prefillshare.files import written_whole
from prefillshare.kv.identity import ModelId
from prefillshare.models.bridge.bridge import Bridge
from prefillshare.models.bridge.rotary import Rotary
from prefillshare.models.bridge.spec import BridgeSpec

SPEC_FILE = "bridge.json"
WEIGHTS_FILE = "bridge.safetensors"
_ORIGIN_FILE = "origin"
# Two digests: of the prefill module, and of the model whose decoders read.
Pair = tuple[ModelId, ModelId]


def save_bridge(
    bridge: Bridge, directory: Path, pair: Pair, origin: str | None = None
) -> None:
    """Write `bridge` between `pair`, source and target, into `directory`.

    Args:
        origin: a digest of what it was made from, for `bridge_origin`.

    Raises:
        CheckpointError: it could not be written; nothing half-written is left.
    """
    tables = {"source": bridge.source_rotaries, "target": bridge.target_rotaries}
    tensors = {name: t.contiguous() for name, t in bridge.state_dict().items()}
    for side, rotaries in tables.items():
        tensors |= {f"{side}.{i}": r.frequencies for i, r in enumerate(rotaries)}
    about = {
        "spec": bridge.spec.to_dict(),
        "pair": [model.digest for model in pair],
        "scaling": {side: [r.scaling for r in table] for side, table in tables.items()},
    }
    with written_whole(directory, "bridge") as fresh:
        save_file({n: t.clone() for n, t in tensors.items()}, fresh / WEIGHTS_FILE)
        (fresh / SPEC_FILE).write_text(json.dumps(about, indent=2) + "\n")
        if origin is not None:
            (fresh / _ORIGIN_FILE).write_text(origin + "\n")


def load_bridge(directory: Path, pair: Pair | None = None) -> Bridge:
    """A saved bridge; with `pair`, one between exactly those models.

    Raises:
        CheckpointError: there is none, or it is damaged.
        IdentityError: it is one between other models.
    """
    about = _read_spec(directory / SPEC_FILE)
    if pair is not None:
        ends = ("source", "target")
        for model, digest, end in zip(pair, about["pair"], ends, strict=True):
            model.require(ModelId(digest), f"the {end} of the bridge {directory}")
    try:
        spec = BridgeSpec.from_dict(about["spec"])
        tensors = _read_tensors(directory)
        tables = {
            side: [Rotary(tensors.pop(f"{side}.{i}"), x) for i, x in enumerate(scaling)]
            for side, scaling in about["scaling"].items()
        }
        bridge = Bridge(spec, tables["source"], tables["target"])
        dtypes = {tensor.dtype for tensor in tensors.values()}
        if dtypes:
            bridge.to(dtypes.pop())
        bridge.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"the bridge in {directory} cannot be read: {error}; fit it again"
        ) from error
    return bridge


def bridge_origin(directory: Path) -> str:
    """What a bridge was made from; where that is not known, the bridge itself.

    Fitted again elsewhere, a bridge has other last bits and so another digest, but the
    same origin.
    """
    path = directory / _ORIGIN_FILE
    return path.read_text().strip() if path.exists() else bridge_digest(directory)


def bridge_digest(directory: Path) -> str:
    """Of everything that a bridged cache depends on beside the source's cache.

    Raises:
        CheckpointError: there is no bridge.
    """
    sha = hashlib.sha256(b"prefillshare/bridge/1")
    about = _read_spec(directory / SPEC_FILE)
    sha.update(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(_read_tensors(directory).items()):
        sha.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.contiguous().reshape(-1).view(torch.uint8)
        sha.update(flat.numpy().data)
    return sha.hexdigest()


def _read_tensors(directory: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(directory / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the bridge in {directory} cannot be read: {error}; fit it again"
        ) from error


def _read_spec(path: Path) -> dict[str, Any]:
    try:
        about: dict[str, Any] = json.loads(path.read_text())
        if len(about["pair"]) != 2:
            raise ValueError("it does not name two models")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is not a bridge's ({error}); give a directory that `prefillshare "
            "bridge fit` wrote"
        ) from error
    return about
