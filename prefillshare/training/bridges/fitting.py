"""Fitting a bridge in closed form, or naming the layers that it passes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch

from prefillshare.errors import BridgeError
from prefillshare.kv.identity import ModelId
from prefillshare.models.bridge.bridge import Bridge
from prefillshare.models.bridge.fit import Fitted, Pair, fit_bridge
from prefillshare.models.bridge.spec import BridgeSpec
from prefillshare.models.bridge.storage import save_bridge
from prefillshare.models.prune import Pruned
from prefillshare.training.bridges.ends import BridgeSettings, Ends, Say
from prefillshare.training.bridges.inspection import Trial, try_out
from prefillshare.training.keys import chosen, digest

# Test prompts on which a bridge is tried before it is saved.
_TRIED = 4


def fit(settings: BridgeSettings, say: Say) -> dict[str, Any]:
    """Fit a bridge and save it; returns what it came to.

    Raises:
        BridgeError: the models' caches cannot be mapped, there is too little text, or
            the pair is hopeless: the bridge would carry next to nothing.
    """
    ends = Ends.open(settings)
    began = time.perf_counter()
    fitted = _copied(ends, settings) if settings.kind == "copy" else None
    fitted = fitted or fit_bridge(
        _pairs(ends, settings, say),
        ends.shapes,
        ends.rotaries,
        settings.fit(),
        ends.table,
    )
    seconds = time.perf_counter() - began
    bridge = fitted.bridge
    torch.nn.Module.to(bridge, getattr(torch, settings.dtype))
    whole = sum(p.numel() for p in ends.target.parameters())
    _require_small(bridge.parameter_count / whole, settings)
    trial = try_out(ends, settings, bridge, _TRIED)
    say(trial.sentence)
    wanted = settings.recovered
    if wanted is not None and (trial.recovered or 0.0) < wanted:
        raise _hopeless(trial, fitted, settings, wanted)
    save_bridge(bridge, settings.output, ends.ids, _origin(ends, settings))
    say(f"saved {settings.output}: {bridge.parameter_count:,} parameters")
    return {
        "bridge": str(settings.output),
        "bridge_parameters": bridge.parameter_count,
        "decoder_parameters": whole,
        "fit_seconds": seconds,
        "tokens": fitted.examples,
        "sources": [list(layers) for layers in bridge.spec.sources],
        "explained": {"keys": list(fitted.keys), "values": list(fitted.values)},
        "trial": trial.figures(),
    }


def _origin(ends: Ends, settings: BridgeSettings) -> str:
    free = ("model", "decoder_model", "output", "recovered", "share")
    fields = chosen(settings, settings.tasks, free)
    return digest([[model_id.digest for model_id in ends.ids], fields])


def _require_small(share: float, settings: BridgeSettings) -> None:
    if settings.share is not None and share > settings.share:
        raise BridgeError(
            f"the bridge would have {share:.1%} of the decoder's parameters, where "
            f"{settings.share:.1%} are allowed; lower rank, layers or width, or raise "
            "`share`"
        )


def _hopeless(
    trial: Trial, fitted: Fitted, settings: BridgeSettings, wanted: float
) -> BridgeError:
    told = ""
    if fitted.keys:
        keys, values = (sum(x) / len(x) for x in (fitted.keys, fitted.values))
        told = f" (the maps explain {keys:.0%} of the keys and {values:.0%} of values)"
    return BridgeError(
        f"{settings.decoder_model} cannot read {settings.model} through this bridge: "
        f"{trial.sentence}, and {wanted:.0%} are asked for{told}. Fit to more tokens, "
        "or to prompts more like those to be read; raise layers, nearest, rank or "
        "embeddings; or set `recovered: null` and train the bridge with its decoder"
    )


def _copied(ends: Ends, settings: BridgeSettings) -> Fitted:
    """Layer for layer, or from those layers that the smaller model kept."""
    pruned = Pruned.load(settings.decoder_model)
    if pruned is not None:
        ends.ids[0].require(ModelId(pruned.model_id), str(settings.decoder_model))
    source, target = ends.shapes
    layers = pruned.layers if pruned else range(target.layers)
    if pruned is None and source.layers != target.layers:
        raise BridgeError(
            f"kind `copy` cannot say which of {source.layers} layers the decoder's "
            f"{target.layers} are: {settings.decoder_model} was not pruned by "
            "`prefillshare init --prune`; use `linear`"
        )
    spec = BridgeSpec(source, target, tuple((layer,) for layer in layers))
    return Fitted(Bridge(spec, *ends.rotaries), (), (), 0)


def _pairs(ends: Ends, settings: BridgeSettings, say: Say) -> Iterator[Pair]:
    read, told = 0, 0
    for example in ends.prompts(settings.tasks, "train"):
        yield ends.caches(example)
        read += example.prompt.boundary
        if read - told >= 5_000:
            told = read
            say(f"read {read:,} of {settings.tokens:,} tokens")
        if read >= settings.tokens:
            return
