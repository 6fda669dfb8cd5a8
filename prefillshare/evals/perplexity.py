"""Perplexity of a model on text: what tuning a prefill module costs it as one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from prefillshare.errors import DataError
from prefillshare.evals.likelihood import score_rows


@dataclass(frozen=True)
class Perplexity:
    """The negative log-likelihood of `tokens` predicted tokens, summed, in nats."""

    nll: float
    tokens: int

    @property
    def mean_nll(self) -> float:
        """Nats per predicted token."""
        return self.nll / self.tokens

    @property
    def value(self) -> float:
        """The perplexity, `exp(mean_nll)`."""
        return math.exp(self.mean_nll)

    def __add__(self, other: Perplexity) -> Perplexity:
        """Over both texts together, each token counted once."""
        return Perplexity(self.nll + other.nll, self.tokens + other.tokens)


@dataclass(frozen=True)
class Window:
    """Tokens `start .. stop` of which `first .. stop` are predicted here."""

    start: int
    first: int
    stop: int


def sliding_windows(tokens: int, window: int, stride: int) -> Iterator[Window]:
    """Windows that predict each of `tokens` tokens but the first exactly once.

    Each model call reads at most `window` tokens. The first predicts as many; each
    later one the next `stride`, so that from then on every prediction has at least
    `window - stride + 1` tokens before it.

    Raises:
        ValueError: a stride of less than 1 or more than the window.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"stride must be 1 to {window} (the window), got {stride}")
    first, step = 1, window
    while first < tokens:
        stop = min(first + step, tokens)
        yield Window(max(0, stop - 1 - window), first, stop)
        first, step = stop, stride


def perplexity(
    model: Any, token_ids: Sequence[int], *, window: int, stride: int
) -> Perplexity:
    """Of a causal language model on one text; all tokens but the first are predicted.

    Args:
        model: a transformers causal language model.
        window: how many tokens it reads at most, its context or less.
        stride: how far the window moves: small is exact and slow, `window` fast.

    Raises:
        DataError: fewer than two tokens.
        ValueError: a stride of less than 1 or more than the window.
    """
    if len(token_ids) < 2:
        raise DataError(
            f"a text of {len(token_ids)} tokens has no token to predict; give a longer "
            "one"
        )
    total = 0.0
    for each in sliding_windows(len(token_ids), window, stride):
        row = token_ids[each.start : each.stop]
        (scores,) = score_rows(model, [row], [each.stop - each.first])
        total -= scores.total
    return Perplexity(total, len(token_ids) - 1)


def file_perplexity(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    paths: Sequence[Path],
    *,
    window: int,
    stride: int,
) -> Perplexity:
    """Over text files (UTF-8), each a text of its own, summed.

    Comparable between models with the same tokenizer.

    Raises:
        DataError: no files, one that cannot be read, or one of fewer than two tokens.
    """
    if not paths:
        raise DataError("perplexity needs at least one text file, got none")
    parts = []
    for path in paths:
        ids: list[int] = tokenizer(_text(path))["input_ids"]
        try:
            parts.append(perplexity(model, ids, window=window, stride=stride))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
    return sum(parts[1:], parts[0])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from error
