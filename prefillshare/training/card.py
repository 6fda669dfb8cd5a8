"""Model cards: what a saved decoder or prefill module is, and how the run made it.

Every figure on a card is read from the run: its settings, its log, its data, this
machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from prefillshare.kv.identity import ModelId
from prefillshare.models.loading import hub_id
from prefillshare.models.record import DecoderRecord
from prefillshare.runtime import cpu_model, installed_version
from prefillshare.training.card_code import (
    SAVED,
    with_libraries,
    with_prefillshare,
)
from prefillshare.training.data import Group, response_tokens
from prefillshare.training.metrics import RunSummary
from prefillshare.training.settings import FREE_SETTINGS, RunSettings

CARD_FILE = "README.md"
# The data of each stream of a run, by the name of who learns from it.
Streams = Mapping[str, Sequence[Group]]

_PACKAGES = ("prefillshare", "torch", "transformers", "peft", "accelerate")
_EVALUATION = "## Evaluation"
_PREFILLS = {
    "shared": "It generates from a KV cache that the frozen prefill module `{id}` "
    "computed: that module reads the prompt up to the boundary, this decoder reads the "
    "rest with its own weights. On the cache of any other module it is not defined.",
    "own": "It reads its own cache: an ordinary fine-tune of the model `{id}`.",
    "icarus": "All keys and values come from the frozen model `{id}`, and this decoder "
    "only reads them (ICaRus). prefillshare trains and evaluates such decoders, and "
    "does not serve them.",
    "recompute": "It computes some layers of the prompt anew, on the hidden states of "
    "the frozen model `{id}`, and reads that model's cache in the others. prefillshare "
    "trains and evaluates such decoders, and does not serve them.",
}
_MODULE = (
    "A prefill module, tuned to be read and then frozen. Its ModelId is `{id}`; it was "
    "tuned from `{base}`. Decoders are trained on the KV cache that it leaves, and "
    "belong to it: any change of its weights, tokenizer or chat template makes it "
    "another module."
)
_BOUNDARIES = {
    "last_token": "the prefill module reads all but the prompt's last token",
    "suffix": "the prefill module reads everything before the agent suffix",
}


def write_decoder_card(
    directory: Path,
    record: DecoderRecord,
    settings: RunSettings,
    streams: Streams,
    device: torch.device,
) -> None:
    """Write the card of the decoder that was saved into `directory`."""
    adapter = (directory / "adapter_config.json").is_file()
    module = ModelId(record.model_id).short
    about = [
        f"# {record.name}: a decoder on prefill module {module}",
        _PREFILLS[record.prefill].format(id=_whose(record)),
        *_other_weights(record),
        _table(_reading(record)),
        *_loading(record, settings.dtype, adapter=adapter),
        *_training(settings, streams, device),
    ]
    library = "peft" if adapter else "transformers"
    data = _metadata(library, "decoder", settings)
    _write(directory, data, about)


def write_module_card(
    directory: Path, settings: RunSettings, streams: Streams, device: torch.device
) -> None:
    """Write the card of the prefill module that was saved into `directory`."""
    module = ModelId.from_directory(directory)
    base = ModelId.from_directory(settings.model)
    about = [
        f"# Prefill module {module.short}",
        _MODULE.format(id=module.digest, base=base.digest),
        "## How to use it",
        _fenced("bash", f"prefillshare train --set model={SAVED} --config train.yaml"),
        *_training(settings, streams, device),
    ]
    _write(directory, _metadata("transformers", "prefill-module", settings), about)


def add_evaluation(directory: Path, results: Sequence[EvalResult]) -> None:
    """Put `results` on the card in `directory`, in place of any that it has."""
    card = ModelCard.load(directory / CARD_FILE)
    title = re.search(r"^# (.+)$", card.text, re.MULTILINE)
    assert title is not None, "every card of ours has a title"
    card.data["model_name"] = title.group(1)
    card.data["eval_results"] = list(results)
    rows = {f"{r.dataset_name}: {r.metric_type}": r.metric_value for r in results}
    text = card.text.split(f"\n{_EVALUATION}\n")[0].rstrip()
    card.text = f"{text}\n\n{_EVALUATION}\n\n{_table(rows)}\n"
    card.save(directory / CARD_FILE)


def _metadata(library: str, kind: str, settings: RunSettings) -> ModelCardData:
    # What the weights started from, not whose cache is read.
    base = hub_id(getattr(settings, "decoder_model", None) or settings.model)
    relation = "adapter" if library == "peft" else "finetune"
    return ModelCardData(
        library_name=library,
        pipeline_tag="text-generation",
        base_model=base,
        base_model_relation=relation if base else None,
        tags=["prefillshare", kind, "shared-kv-cache"],
    )


def _whose(record: DecoderRecord) -> str:
    """The model that reads the prompt."""
    own = record.prefill == "own" and record.weights_id
    return own or record.model_id


def _other_weights(record: DecoderRecord) -> list[str]:
    if record.weights_id is None:
        return []
    through = "; it reads that cache through the bridge in `bridge/`"
    shared = through if record.prefill == "shared" else ""
    about = (
        f"Its weights started from another model, `{record.weights_id}`{shared}. The "
        "prefill module's template writes its prompts, in its own tokenizer's tokens."
    )
    return [about]


def _reading(record: DecoderRecord) -> dict[str, Any]:
    return {
        "ModelId of the prefill module": f"`{record.model_id}`",
        "boundary": f"`{record.boundary}`: {_BOUNDARIES[record.boundary]}",
        "agent suffix": f"`{json.dumps(record.suffix, ensure_ascii=False)}`",
        "KV formats": ", ".join(f"`{json.dumps(f)}`" for f in record.kv_formats),
    }


def _loading(record: DecoderRecord, dtype: str, *, adapter: bool) -> list[str]:
    # The code below is for decoders over the prefill module's own weights.
    if record.prefill not in ("shared", "own") or record.weights_id is not None:
        return []
    plain = "plain PEFT" if adapter else "plain transformers"
    caveat = f"With {plain}:"
    if record.prefill == "shared":
        needed = (
            "the adapter must be off before the boundary and on from there"
            if adapter
            else "the prompt up to the boundary must be read by the prefill module"
        )
        caveat = f"With {plain}, {needed}; read otherwise, it was not trained for it:"
    return [
        "## How to load it",
        "With prefillshare, which checks that the module is the right one:",
        _fenced("python", with_prefillshare(record, dtype)),
        caveat,
        _fenced("python", with_libraries(record, dtype, adapter=adapter)),
    ]


def _training(
    settings: RunSettings, streams: Streams, device: torch.device
) -> list[str]:
    figures = _logged(RunSummary.of(settings.output)) | {
        "seed": settings.seed,
        "hardware": _hardware(device),
        "versions": ", ".join(f"{p} {installed_version(p)}" for p in _PACKAGES),
    }
    for name, groups in streams.items():
        figures[f"training data of {name}"] = (
            f"{len(groups)} units, {sum(map(len, groups))} examples, "
            f"{response_tokens(groups)} response tokens"
        )
    shown = settings.model_dump(mode="json", exclude=set(FREE_SETTINGS))
    text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).rstrip()
    note = "The loss is the last step's, a mean over all data that the run trained on."
    return ["## How it was trained", _table(figures), note, _fenced("yaml", text)]


def _logged(run: RunSummary | None) -> dict[str, Any]:
    if run is None:
        return {}
    return {
        "steps": run.steps,
        "final loss (nats per response token)": f"{run.final_loss:.4f}",
        "tokens read (prompts and responses)": run.tokens,
        "seconds in steps": f"{run.seconds:.1f}",
    }


def _hardware(device: torch.device) -> str:
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else cpu_model()
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    world = torch.distributed.get_world_size() if together else 1
    return f"{name}, {world} process{'es' if world > 1 else ''}"


def _table(rows: Mapping[str, Any]) -> str:
    cells = {k: str(v).replace("|", "\\|") for k, v in rows.items()}
    lines = [f"| {key} | {value} |" for key, value in cells.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _fenced(language: str, code: str) -> str:
    # A fence longer than any run of backticks inside.
    longest = max(map(len, re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"


def _write(directory: Path, data: ModelCardData, sections: Sequence[str]) -> None:
    body = "\n\n".join(sections)
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n")
    card.save(directory / CARD_FILE)
