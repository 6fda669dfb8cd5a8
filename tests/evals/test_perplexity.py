"""Perplexity counts each token once, with the context that it says."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from prefillshare.errors import DataError
from prefillshare.evals.perplexity import (
    Perplexity,
    file_perplexity,
    perplexity,
    sliding_windows,
)
from prefillshare.models.tiny import tiny_tokenizer

IDS = [(11 * i) % 240 + 5 for i in range(23)]


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 40))
def test_each_token_but_the_first_is_predicted_once_with_enough_before_it(
    tokens: int, window: int, stride: int
) -> None:
    stride = min(stride, window)
    windows = list(sliding_windows(tokens, window, stride))
    predicted = [i for each in windows for i in range(each.first, each.stop)]
    assert predicted == list(range(1, tokens))
    for number, each in enumerate(windows):
        assert each.start < each.first
        assert each.stop - 1 - each.start <= window
        if number:
            assert each.first - each.start >= window - stride + 1


@torch.no_grad()
def logprob(model: PreTrainedModel, row: list[int]) -> float:
    """Of the last token of `row`, given those before."""
    logits = model(input_ids=torch.tensor([row[:-1]])).logits[0, -1]
    return float(logits.log_softmax(-1)[row[-1]])


def test_a_window_over_all_is_the_exact_perplexity(tiny_model: PreTrainedModel) -> None:
    wanted = -sum(logprob(tiny_model, IDS[: i + 1]) for i in range(1, len(IDS)))
    found = perplexity(tiny_model, IDS, window=64, stride=64)
    assert found.tokens == len(IDS) - 1
    assert found.nll == pytest.approx(wanted, abs=1e-9)
    assert found.value == pytest.approx(math.exp(wanted / found.tokens))


def test_a_stride_of_one_gives_every_token_a_full_window(
    tiny_model: PreTrainedModel,
) -> None:
    wanted = -sum(
        logprob(tiny_model, IDS[max(0, i - 6) : i + 1]) for i in range(1, len(IDS))
    )
    found = perplexity(tiny_model, IDS, window=6, stride=1)
    assert found.nll == pytest.approx(wanted, abs=1e-9)
    assert found.nll != pytest.approx(
        perplexity(tiny_model, IDS, window=6, stride=6).nll
    )


def test_files_are_texts_of_their_own(
    tiny_model: PreTrainedModel, tmp_path: Path
) -> None:
    tokenizer, texts = tiny_tokenizer(), ["All happy families", "Call me Ishmael."]
    paths = [tmp_path / f"{i}.txt" for i in range(2)]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    found = file_perplexity(tiny_model, tokenizer, paths, window=8, stride=4)
    each = [
        perplexity(tiny_model, tokenizer(text)["input_ids"], window=8, stride=4)
        for text in texts
    ]
    assert found == each[0] + each[1]
    assert found.tokens == sum(map(len, texts)) - 2


def test_sums_weigh_by_tokens() -> None:
    both = Perplexity(2.0, 1) + Perplexity(1.0, 5)
    assert both.mean_nll == pytest.approx(0.5)


def test_what_has_no_perplexity_is_refused(
    tiny_model: PreTrainedModel, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="1 tokens has no token to predict"):
        perplexity(tiny_model, [5], window=4, stride=4)
    with pytest.raises(ValueError, match="stride must be 1 to 4"):
        perplexity(tiny_model, IDS, window=4, stride=5)
    for content in (b"x", b"\xff\xfe"):
        (tmp_path / "bad.txt").write_bytes(content)
        with pytest.raises(DataError, match="bad.txt"):
            file_perplexity(
                tiny_model, tiny_tokenizer(), [tmp_path / "bad.txt"], window=4, stride=4
            )
    with pytest.raises(DataError, match="at least one text file"):
        file_perplexity(tiny_model, tiny_tokenizer(), [], window=4, stride=4)
