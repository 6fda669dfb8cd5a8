"""What is scored under teacher forcing: whole answers, fields, confidence."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import pytest
import torch

from prefillshare.evals.calibration import calibration_error
from prefillshare.evals.runner import Scores, evaluate
from prefillshare.models.tiny import tiny_tokenizer
from prefillshare.tasks.base import Sample
from prefillshare.training.data import Tokenisation
from prefillshare.training.objective import ResponseScores

ANSWERS = ['{"order": 417, "town": "Lyon"}', '{"town": "Oslo"}', "Ghent"]


class Scripted:
    """Predicts every token of the reference but those at `wrong` in the row."""

    def __init__(self, wrong: set[int], sure: float = 2.0) -> None:
        self.wrong, self.sure = wrong, sure

    def prefill(self, packed: Any) -> None:
        """Nothing."""

    def read(
        self, decoder: Any, packed: Any, which: Any, prefilled: None
    ) -> ResponseScores:
        examples = [packed.examples[i] for i in which]
        labels = torch.tensor([t for e in examples for t in e.response])
        owner = torch.tensor([i for i, e in enumerate(examples) for _ in e.response])
        said = labels.clone()
        for place in self.wrong:
            said[place] = (said[place] + 1) % 7
        logits = self.sure * torch.nn.functional.one_hot(said, 300).double()
        return ResponseScores(logits, labels, owner)


def scored(wrong: set[int], **fields: Any) -> Scores:
    message = {"role": "user", "content": "which?"}
    unit = tuple(Sample((message,), "", answer) for answer in ANSWERS)
    group = Tokenisation(tiny_tokenizer(), "last_token", 512).group(unit)
    return evaluate(Scripted(wrong, **fields), None, [group])


def place(example: int, text: str) -> int:
    """Where `text` starts in the row: a token is a byte, and an end a token."""
    before = sum(len(answer) + 1 for answer in ANSWERS[:example])
    return before + ANSWERS[example].index(text)


def test_all_right() -> None:
    scores = scored(set())
    assert scores.tokens == tuple(len(answer) + 1 for answer in ANSWERS)
    assert scores.summary()["fields"] == {"order": 1.0, "town": 1.0}
    assert scores.fields["order"] == (1.0, None, None)
    assert scores.fields["town"] == (1.0, 1.0, None)


@pytest.mark.parametrize(
    ("example", "text", "order", "town"),
    [
        (0, "17", 0.0, 1.0),
        (0, ', "t', 0.0, 1.0),  # the number goes on
        (0, "town", 1.0, 1.0),  # the name of a field is no field
        (0, "Lyon", 1.0, 0.5),
        (1, 'o"', 1.0, 0.5),
        (1, "}", 1.0, 1.0),
        (2, "Ghent", 1.0, 1.0),
    ],
)
def test_a_wrong_token_counts_where_it_stands(
    example: int, text: str, order: float, town: float
) -> None:
    scores = scored({place(example, text)})
    assert scores.summary()["fields"] == {"order": order, "town": town}
    assert scores.exact == tuple(float(i != example) for i in range(3))


def test_text_has_no_fields() -> None:
    assert "fields" not in Scores((1.0,), (0.0,), (0,), (1,), (0,)).summary()


def test_calibration_is_of_the_arg_max_tokens() -> None:
    wrong = {0, 5, 40}
    scores = scored(wrong, sure=6.0)
    count = sum(scores.tokens)
    sure = math.exp(6.0) / (math.exp(6.0) + 299)
    right = [i not in wrong for i in range(count)]
    expected = calibration_error([sure] * count, right)
    assert expected == pytest.approx(abs(sure - (count - 3) / count))
    assert scores.summary()["calibration_error"] == pytest.approx(expected, abs=1e-6)


def test_scores_survive_json() -> None:
    scores = scored({3})
    kept = json.loads(json.dumps(asdict(scores)))
    assert Scores(**kept).summary() == scores.summary()
