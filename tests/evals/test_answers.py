"""Generated answers: as they are served, once per context, marked by the scorer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from prefillshare.cli import main
from prefillshare.evals.answers import (
    Answers,
    generate_answers,
    mark_figures,
    score_answers,
    serving_prefill,
)
from prefillshare.evals.statistics import score_interval
from prefillshare.kv.identity import ModelId
from prefillshare.models.decoder import Decoder
from prefillshare.models.prefill import PrefillModule
from prefillshare.models.prompt import Boundary, lay_out
from prefillshare.models.tiny import tiny_tokenizer
from prefillshare.tasks.base import Sample, Unit
from prefillshare.tasks.casefile import SHIPPING
from prefillshare.tasks.casefile.task import CaseFileTask
from prefillshare.tasks.toolcalls import ToolCalls
from prefillshare.training.data import Tokenisation
from prefillshare.training.schemes.base import Scheme
from prefillshare.training.schemes.cached import Cached
from prefillshare.training.schemes.icarus import Icarus
from prefillshare.training.schemes.one_row import OnePass, Own
from prefillshare.training.schemes.recompute import Recompute
from tests.conftest import make_decoder

TASK = CaseFileTask("shipping", contexts=2, records=3, questions=2)
UNITS = TASK.units("test")
SAMPLES = [sample for unit in UNITS for sample in unit]
TOKENIZER = tiny_tokenizer()


def tokenisation(
    boundary: Boundary = "last_token", context: int = 4096
) -> Tokenisation:
    return Tokenisation(TOKENIZER, boundary, context)


def read(token_ids: Sequence[int]) -> str:
    """Up to the end of turn."""
    return str(TOKENIZER.decode(list(token_ids), skip_special_tokens=True))


class Knows(Decoder):
    """Says, for each prompt in turn, the answer it was given."""

    def __init__(self, decoder: Decoder, answers: Sequence[str]) -> None:
        super().__init__(decoder.model, decoder.record)
        self._answers = iter(answers)

    def generate(self, *_: Any, max_tokens: int, **__: Any) -> Iterator[int]:
        ids = TOKENIZER(next(self._answers), add_special_tokens=False)["input_ids"]
        yield from [*ids, TOKENIZER.eos_token_id][:max_tokens]


@pytest.mark.parametrize("boundary", ["last_token", "suffix"])
def test_shared_answers_are_those_that_are_served(
    tiny_model: PreTrainedModel, tiny_id: ModelId, boundary: Boundary
) -> None:
    module = PrefillModule(tiny_model)
    decoder = make_decoder(tiny_model, tiny_id, suffix=TASK.suffix, boundary=boundary)
    texts = generate_answers(
        module, decoder, tokenisation(boundary), UNITS, max_tokens=9
    )
    served = []
    for sample in SAMPLES:
        prompt = lay_out(TOKENIZER, sample.messages, sample.suffix, boundary)
        cache = module.prefill(prompt.token_ids[: prompt.boundary])
        end = frozenset({TOKENIZER.eos_token_id})
        served.append(
            read(
                list(
                    decoder.generate(
                        cache, prompt.remainder, max_tokens=9, stop_ids=end
                    )
                )
            )
        )
    assert texts == served
    naive = generate_answers(
        PrefillModule(decoder.model),
        decoder,
        tokenisation(boundary),
        UNITS,
        max_tokens=9,
    )
    assert naive != texts


def test_own_answers_are_those_of_plain_generate(
    tiny_model: PreTrainedModel, tiny_id: ModelId
) -> None:
    decoder = make_decoder(tiny_model, tiny_id, suffix=TASK.suffix, prefill="own")
    texts = generate_answers(
        PrefillModule(decoder.model), decoder, tokenisation(), UNITS, max_tokens=9
    )
    for sample, text in zip(SAMPLES, texts, strict=True):
        prompt = lay_out(TOKENIZER, sample.messages, sample.suffix, "last_token")
        ids = torch.tensor([prompt.token_ids])
        out = decoder.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=9,
            do_sample=False,
        )
        assert text == read(out[0, ids.shape[1] :].tolist())


def test_a_context_is_prefilled_once_for_all_its_samples(
    tiny_model: PreTrainedModel, tiny_id: ModelId, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = make_decoder(tiny_model, tiny_id, suffix=TASK.suffix)
    module = PrefillModule(tiny_model)
    read_tokens: list[int] = []
    forward = module._forward

    def counted(chunk: Sequence[int], cache: Any) -> None:
        read_tokens.append(len(chunk))
        forward(chunk, cache)

    monkeypatch.setattr(module, "_forward", counted)
    done: list[int] = []
    generate_answers(
        module, decoder, tokenisation(), UNITS, max_tokens=1, on_unit=done.append
    )
    assert done == [len(unit) for unit in UNITS]
    prompts = [
        lay_out(TOKENIZER, s.messages, s.suffix, "last_token").boundary for s in SAMPLES
    ]
    # A byte is a token.
    context = min(len(unit[0].messages[0]["content"]) for unit in UNITS)
    repeats = len(SAMPLES) - len(UNITS)
    assert sum(read_tokens) <= sum(prompts) - repeats * context


def test_the_models_context_cuts_an_answer(
    tiny_model: PreTrainedModel, tiny_id: ModelId
) -> None:
    decoder = make_decoder(tiny_model, tiny_id, suffix=TASK.suffix)
    unit: Unit = (SAMPLES[0],)
    length = len(
        lay_out(TOKENIZER, unit[0].messages, unit[0].suffix, "last_token").token_ids
    )
    said = Knows(decoder, ["twelve bytes"])
    short = tokenisation(context=length + 6)
    module = PrefillModule(tiny_model)
    assert generate_answers(module, said, short, [unit], max_tokens=99) == ["twelve"]


def test_a_decoder_that_knows_the_answers_is_right(
    tiny_model: PreTrainedModel, tiny_id: ModelId
) -> None:
    decoder = make_decoder(tiny_model, tiny_id, suffix=TASK.suffix)
    references = [sample.answer for sample in SAMPLES]
    module = PrefillModule(tiny_model)
    right = score_answers(
        TASK,
        UNITS,
        generate_answers(
            module, Knows(decoder, references), tokenisation(), UNITS, max_tokens=256
        ),
    )
    assert list(right.texts) == references
    figures = right.summary()
    assert figures["n"] == len(SAMPLES)
    exact = figures["marks"]["exact"]
    assert exact["mean"] == exact["high"] == 1.0 and exact["n"] == len(SAMPLES)
    # Two units prove little.
    assert 0.0 < exact["low"] < 0.1
    rotated = [*references[1:], references[0]]
    wrong = score_answers(TASK, UNITS, rotated).summary()["marks"]
    assert wrong["exact"]["mean"] < 1.0 and wrong["name"]["mean"] == 1.0


def test_the_scorer_reads_structure_where_exact_match_does_not(
    tmp_path: Path,
) -> None:
    task = ToolCalls(file=tmp_path / "requests.jsonl", held_out=1)
    reference = '{"name": "book", "arguments": {"town": "Oslo", "seats": 2}}'
    reordered = '{"arguments": {"seats": 2, "town": "Oslo"}, "name": "book"}'
    other = '{"name": "book", "arguments": {"town": "Oslo", "seats": 3}}'
    message = {"role": "user", "content": "two seats in Oslo"}
    units = [(Sample((message,), "", reference),) for _ in range(2)]
    answers = score_answers(task, units, [reordered, other])
    assert reordered != reference
    assert answers.marks["exact"] == (1.0, 0.0)
    assert answers.marks["name"] == (1.0, 1.0)
    assert answers.marks["arguments"] == (1.0, 0.0)


def test_intervals_are_by_unit_and_over_seeds() -> None:
    seeds = [
        Answers(("",) * 4, {"exact": (1.0, 1.0, 0.0, x), "total": (None, 1.0, None, x)},
                (0, 0, 1, 2))
        for x in (0.0, 1.0)
    ]  # fmt: skip
    one = mark_figures(seeds[:1])
    expected = score_interval([[1.0, 1.0, 0.0, 0.0]], [0, 0, 1, 2])
    assert one["exact"] == {**vars(expected), "n": 4}
    # Only the samples that have such a mark count.
    assert one["total"]["mean"] == 0.5 and one["total"]["n"] == 2
    both = mark_figures(seeds)["exact"]
    rows = [[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0]]
    assert both == {**vars(score_interval(rows, [0, 0, 1, 2])), "n": 4}


def test_one_unit_has_no_interval() -> None:
    answers = Answers(("a", "b"), {"exact": (1.0, 0.0)}, (0, 0))
    figures = answers.summary()["marks"]["exact"]
    assert figures == {"mean": 0.5, "low": None, "high": None, "n": 2}


def test_what_mixes_two_models_is_not_served(tiny_model: PreTrainedModel) -> None:
    other: Any = object()
    mixed: list[Scheme] = [Icarus(tiny_model), OnePass(), Recompute(tiny_model, 0, 1)]
    assert [serving_prefill(scheme, tiny_model) for scheme in mixed] == [None] * 3
    shared = serving_prefill(Cached(tiny_model), other)
    own = serving_prefill(Own(), tiny_model)
    assert shared is not None and shared.model is tiny_model
    assert own is not None and own.model is tiny_model


def test_the_command_reports_what_was_generated(
    tiny_directory: Path,
    tiny_model: PreTrainedModel,
    tiny_id: ModelId,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    suffix = SHIPPING.suffix
    make_decoder(tiny_model, tiny_id, suffix=suffix).save(tmp_path / "shared")
    own = make_decoder(tiny_model, tiny_id, suffix=suffix, prefill="own", seed=2)
    own.save(tmp_path / "own")
    task = {"kind": "casefile", "agent": "shipping", "contexts": 3, "records": 3,
            "questions": 2}  # fmt: skip
    compared = {"task": task, "shared": str(tmp_path / "shared"),
                "own": str(tmp_path / "own"), "recompute": [0, 1]}  # fmt: skip
    config = tmp_path / "eval.yaml"
    fields = {"model": str(tiny_directory), "tasks": [compared], "dtype": "float64",
              "generate": 2, "max_tokens": 4}  # fmt: skip
    # JSON is YAML.
    config.write_text(json.dumps(fields))
    out = tmp_path / "out.json"
    assert main(["eval", "--config", str(config), "--json", str(out)]) == 0
    results = json.loads(out.read_text())["results"]
    assert set(results["answers"]) == {"base", "full", "naive", "shared"}
    assert "recompute" in results["accuracy"]
    shared = results["answers"]["shared"]["shipping"]
    assert shared["n"] == 4
    assert {"exact", "name"} <= set(shared["marks"])
    assert all(figures["mean"] == 0.0 for figures in shared["marks"].values())
    assert "Generated answers" in capsys.readouterr().out
    assert main(["eval", "--config", str(config), "--json", str(out),
                 "--set", "generate=null"]) == 0  # fmt: skip
    assert "answers" not in json.loads(out.read_text())["results"]
