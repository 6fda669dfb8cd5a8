"""Answers that are generated as they are served, and what the task's scorer says.

Exact match under teacher forcing asks for the reference token for token. A scorer reads
what a decoder really writes: a tool call by its structure, a problem by its number, a
program by its tests.

Shapes: S seeds, N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefillshare.evals.generation import Generation, generate_text
from prefillshare.evals.likelihood import SharedCacheScorer
from prefillshare.evals.statistics import score_interval
from prefillshare.models.decoder import Decoder
from prefillshare.models.prefill import PrefillModule
from prefillshare.tasks.base import Sample, Task, Unit
from prefillshare.training.data import Tokenisation
from prefillshare.training.padded import OneByOne
from prefillshare.training.schemes.base import Scheme
from prefillshare.training.schemes.cached import Cached
from prefillshare.training.schemes.one_row import Own


@dataclass(frozen=True)
class Answers:
    """Generated texts and their marks, one each per sample.

    Attributes:
        marks: by the scorer's name, 1 or 0; None for samples without such a mark.
        context: the unit's number.
    """

    texts: tuple[str, ...]
    marks: Mapping[str, Sequence[float | None]]
    context: tuple[int, ...]

    def summary(self) -> dict[str, Any]:
        """`n`, and by mark the figures of `mark_figures`."""
        return {"n": len(self.texts), "marks": mark_figures([self])}


def serving_prefill(scheme: Scheme, model: Any) -> PrefillModule | None:
    """What prefills when `model` is served on what `scheme` prefills, maybe itself.

    None if the scheme mixes two models within a prompt, which is not served.
    """
    # Subclasses of these mix.
    if type(scheme) is Own:
        return PrefillModule(model)
    if type(scheme) is Cached or type(scheme) is OneByOne:
        reads = scheme.prefill_model
        return PrefillModule(model if reads is None else reads)
    return None


def generate_answers(
    prefill: PrefillModule,
    decoder: Decoder,
    tokenisation: Tokenisation,
    units: Sequence[Unit],
    *,
    max_tokens: int,
    on_unit: Callable[[int], object] | None = None,
) -> list[str]:
    """The decoder's greedy answer to every sample of `units`, in order.

    `prefill` reads each prompt up to the boundary; what a prompt has in common with the
    one before it, as all samples of a unit have their context, it reads once (a
    recurrent model reads every prompt from its start).

    Args:
        prefill: the frozen module, or the decoder's own model.
        tokenisation: with the boundary that the decoder was trained for.
        max_tokens: where an answer is cut that has not ended by itself; the model's
            context may cut it earlier.
        on_unit: called with the number of samples as each unit is done.

    Raises:
        DataError: a prompt cannot be laid out.
        ContextLengthError: a prompt exceeds the prefill module's context.
    """
    caches = SharedCacheScorer(prefill, decoder.model)
    texts: list[str] = []
    for unit in units:
        for sample in unit:
            wanted = _wanted(tokenisation, sample, max_tokens)
            cache = caches.cache(wanted.prefilled)
            texts.append(generate_text(decoder, tokenisation.answering, cache, wanted))
        if on_unit is not None:
            on_unit(len(unit))
    return texts


def score_answers(task: Task, units: Sequence[Unit], texts: Sequence[str]) -> Answers:
    """Mark `texts`, one for each sample of `units`, with the task's own scorer.

    Raises:
        ValueError: there are more or fewer texts than samples.
        SandboxError: a program is to be run and this machine cannot confine it.
    """
    members = [(i, sample) for i, unit in enumerate(units) for sample in unit]
    marked = [
        task.score(sample, text)
        for (_, sample), text in zip(members, texts, strict=True)
    ]
    names = dict.fromkeys(name for marks in marked for name in marks)
    marks = {
        name: tuple(float(m[name]) if name in m else None for m in marked)
        for name in names
    }
    return Answers(tuple(texts), marks, tuple(i for i, _ in members))


def mark_figures(seeds: Sequence[Answers]) -> dict[str, dict[str, Any]]:
    """By mark `mean`, `low` and `high` (95 %, `score_interval`) and `n` samples.

    Over seeds and units; with one seed, over units. `low` and `high` are None where
    all samples with the mark are of one unit, which has no spread.

    Args:
        seeds: S answers to the same N samples.
    """
    found = {}
    for name in seeds[0].marks:
        rows = [each.marks[name] for each in seeds]
        here = [
            i for i, column in enumerate(zip(*rows, strict=True)) if None not in column
        ]
        values = [[row[i] or 0.0 for i in here] for row in rows]
        found[name] = _figures(values, [seeds[0].context[i] for i in here])
    return found


def paired_marks(
    system: Sequence[Answers], reference: Sequence[Answers]
) -> dict[str, tuple[list[list[float]], list[list[float]], list[int]]]:
    """By mark that both have, of the samples that all have it for.

    Args:
        system, reference: S answers each to the same N samples.

    Returns:
        The marks of both sides, `[S][n]`, and the units of the n samples.
    """
    found = {}
    for name in system[0].marks:
        if name not in reference[0].marks:
            continue
        sides = [[each.marks[name] for each in side] for side in (system, reference)]
        columns = zip(*sides[0], *sides[1], strict=True)
        here = [i for i, column in enumerate(columns) if None not in column]
        ours, theirs = ([[row[i] or 0.0 for i in here] for row in s] for s in sides)
        found[name] = (ours, theirs, [system[0].context[i] for i in here])
    return found


def _figures(values: Sequence[Sequence[float]], units: Sequence[int]) -> dict[str, Any]:
    """Of rows `[S][N]`; `units` is the unit of each column."""
    if len(set(units)) > 1:
        return {**vars(score_interval(values, units)), "n": len(units)}
    everything = [value for row in values for value in row]
    mean = sum(everything) / len(everything)
    return {"mean": mean, "low": None, "high": None, "n": len(units)}


def _wanted(tokenisation: Tokenisation, sample: Sample, max_tokens: int) -> Generation:
    """What is generated for `sample`: the prompt that training lays out, no answer."""
    prompt = tokenisation.prompt(sample)
    prefilled = prompt.token_ids[: prompt.boundary]
    room = tokenisation.max_tokens - prompt.longest
    return Generation(prefilled, prompt.remainder, (), min(max_tokens, room))
