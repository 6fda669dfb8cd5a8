"""The text hand-off: what the prefill module can tell another model in words.

Instead of a cache, the decoder's model gets a summary that the prefill module wrote,
and prefills that. Summaries are kept in a file, by the digest of what they sum up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from prefillshare.bench.accuracy.settings import AccuracySettings
from prefillshare.errors import ConfigError
from prefillshare.evals.generation import Generation, generate_text
from prefillshare.kv.identity import ModelId
from prefillshare.models.decoder import Decoder
from prefillshare.models.loading import load_model, load_tokenizer
from prefillshare.models.prefill import PrefillModule
from prefillshare.models.prompt import lay_out
from prefillshare.models.record import DecoderRecord
from prefillshare.report import progress
from prefillshare.tasks.base import Split
from prefillshare.tasks.casefile.summaries import (
    Summaries,
    context_key,
    read_summaries,
    write_summaries,
)
from prefillshare.training.settings import CaseFiles, TaskSettings

_REQUEST = (
    "Sum this up for a colleague who cannot see it and will be asked about any of its "
    "orders: item, quantity, price, customer, town."
)


class Summariser:
    """Writes summaries with a model as it comes, greedily."""

    def __init__(self, directory: Path, max_tokens: int) -> None:
        self._tokenizer = load_tokenizer(directory)
        model = load_model(directory, torch.float32)
        self._module, self._max_tokens = PrefillModule(model), max_tokens
        digest = ModelId.from_directory(directory).digest
        record = DecoderRecord("summary", digest, "shared", "last_token", "")
        self._writer = Decoder(model, record)

    def write(self, context: str) -> str:
        """A summary of at most `max_tokens` tokens."""
        messages = [
            {"role": "system", "content": context},
            {"role": "user", "content": _REQUEST},
        ]
        prompt = lay_out(self._tokenizer, messages, "", "last_token")
        ids = prompt.token_ids[: prompt.boundary]
        wanted = Generation(ids, prompt.remainder, (), self._max_tokens)
        cache = self._module.prefill(ids)
        return generate_text(self._writer, self._tokenizer, cache, wanted).strip()


def write_missing_summaries(
    experiment: AccuracySettings, model: Path, max_tokens: int
) -> None:
    """Write those that the experiment's systems read and that are not there yet.

    After each one the file is whole: work that was cut goes on where it was.
    """
    for path, contexts in _wanted(experiment).items():
        writer = {"model": ModelId.from_directory(model).digest, "tokens": max_tokens}
        known = _kept(path, writer)
        missing = [text for text in contexts if context_key(text) not in known]
        if not missing:
            continue
        summariser = Summariser(model, max_tokens)
        path.parent.mkdir(parents=True, exist_ok=True)
        with progress(f"summing up for {path}", len(missing)) as tick:
            for text in missing:
                known[context_key(text)] = summariser.write(text)
                write_summaries(path, Summaries(writer, known))
                tick("")


def _kept(path: Path, writer: Mapping[str, Any]) -> dict[str, str]:
    """What is there already, by the same writer."""
    if not path.exists():
        return {}
    kept = read_summaries(path)
    if kept.writer != writer:
        raise ConfigError(
            f"{path} was written by {kept.writer}, this experiment's summaries are by "
            f"{dict(writer)}; name another file, or delete that one"
        )
    return dict(kept.texts)


def _wanted(experiment: AccuracySettings) -> dict[Path, list[str]]:
    """By file of summaries, the contexts to be summed up, each once."""
    found: dict[Path, dict[str, None]] = {}
    for name, system in experiment.systems.items():
        path = system.task.get("summaries")
        if path is not None and (not experiment.only or name in experiment.only):
            found.setdefault(Path(path), {}).update(
                dict.fromkeys(_contexts(experiment))
            )
    return {path: list(contexts) for path, contexts in found.items()}


def _contexts(experiment: AccuracySettings) -> Iterator[str]:
    for tested in experiment.tasks:
        yield from _contexts_of(tested.train, "train")
        for test in tested.test:
            yield from _contexts_of(test, "test")


def _contexts_of(settings: TaskSettings, split: Split) -> Iterator[str]:
    if not isinstance(settings, CaseFiles):
        raise ConfigError(
            f"summaries are of case files, not of tasks of kind {settings.kind!r}; "
            "leave `summaries` out of the system's task"
        )
    task = settings.task()
    for i in range(settings.contexts):
        yield task.case(split, i).context
