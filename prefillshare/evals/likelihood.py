"""Log-likelihoods of continuations: of one model, or of a decoder on a shared cache.

Shapes: R rows, T scored tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prefillshare.errors import DataError, UnsupportedModelError
from prefillshare.kv.cache import KVCache
from prefillshare.models.prefill import PrefillModule
from prefillshare.models.prompt import common_prefix


@dataclass(frozen=True)
class TokenScores:
    """What a model made of each scored token; tensors `[T]`.

    Attributes:
        logprob: the token's log-probability, in nats.
        greedy: whether it is the model's first choice.
        confidence: the probability of the model's first choice.
    """

    logprob: torch.Tensor
    greedy: torch.Tensor
    confidence: torch.Tensor

    @property
    def total(self) -> float:
        """The log-probability of all of them, in nats."""
        return float(self.logprob.sum())

    def then(self, later: TokenScores) -> TokenScores:
        """These tokens, followed by `later`."""
        return TokenScores(
            torch.cat([self.logprob, later.logprob]),
            torch.cat([self.greedy, later.greedy]),
            torch.cat([self.confidence, later.confidence]),
        )


@dataclass(frozen=True)
class Continuation:
    """Tokens of which the last `scored` are scored and the first `boundary` prefilled.

    Scored tokens up to and including `token_ids[boundary]` are predicted by the
    prefill module, since it read what stands before them; the others by the decoder.

    Raises:
        DataError: nothing stands before the first scored token, or the boundary leaves
            the decoder no token to predict.
    """

    token_ids: tuple[int, ...]
    scored: int
    boundary: int

    def __post_init__(self) -> None:
        length = len(self.token_ids)
        if not 0 < self.scored < length or not 0 <= self.boundary < length - 1:
            raise DataError(
                f"cannot score the last {self.scored} of {length} tokens after a "
                f"boundary at {self.boundary}: a scored token needs one before it, and "
                "the decoder predicts at least the last; give a context, and a "
                "continuation that the tokenizer does not merge into it"
            )

    @property
    def first_scored(self) -> int:
        """The position of the first scored token."""
        return len(self.token_ids) - self.scored

    @property
    def prefilled(self) -> tuple[int, ...]:
        """The tokens that the prefill module reads."""
        return self.token_ids[: self.boundary]


@torch.inference_mode()
def score_rows(
    model: Any,
    rows: Sequence[Sequence[int]],
    scored: Sequence[int],
    cache: KVCache | None = None,
) -> list[TokenScores]:
    """Score the last `scored[r]` tokens of every row; `cache` stands before each row.

    The model reads each row but its last token, so at most `len(row) - 1` tokens of a
    row can be scored. Probabilities are computed in float32 or better.
    """
    inputs = [list(row[:-1]) for row in rows]
    longest = max(map(len, inputs))
    # Padding stands after everything that is read, so no mask is needed.
    padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids in inputs])
    first = min(len(ids) - n for ids, n in zip(inputs, scored, strict=True))
    output = model(
        input_ids=padded.to(model.device),
        # Nothing follows the rows, so without a cache before them none is needed.
        past_key_values=cache and cache.to_transformers(len(rows)),
        use_cache=cache is not None,
        logits_to_keep=longest - first,
    )
    scores = []
    for row, ids, n, logits in zip(rows, inputs, scored, output.logits, strict=True):
        stop = len(ids) - first
        scores.append(_token_scores(logits[stop - n : stop], row[len(row) - n :]))
    return scores


class SharedCacheScorer:
    """Scores continuations as they are served: a prefill module, then a decoder.

    Args:
        prefill: reads each continuation up to its boundary.
        decoder: the decoder's causal language model, which reads the rest.
        rows: how many continuations of one prefix the decoder scores at a time.
    """

    def __init__(self, prefill: PrefillModule, decoder: Any, *, rows: int = 1) -> None:
        if rows < 1:
            raise ValueError(f"rows must be >= 1, got {rows}")
        self.prefill, self.decoder, self.rows = prefill, decoder, rows
        self._tokens: tuple[int, ...] = ()
        self._cache: KVCache | None = None

    def score(
        self,
        items: Sequence[Continuation],
        on_scored: Callable[[int], object] | None = None,
    ) -> list[TokenScores]:
        """The scores of each continuation, in the order given.

        Those with the same prefilled tokens share one cache; of two that share the
        beginning, the second prefills only what differs.

        Args:
            on_scored: called with the number of continuations scored since last time.
        """
        order = sorted(range(len(items)), key=lambda i: items[i].prefilled)
        scores: dict[int, TokenScores] = {}
        for group in _groups(order, items, self.rows):
            found = self._score_group([items[i] for i in group])
            scores.update(zip(group, found, strict=True))
            if on_scored is not None:
                on_scored(len(group))
        return [scores[i] for i in range(len(items))]

    def cache(self, token_ids: Sequence[int]) -> KVCache | None:
        """The prefill module's cache of `token_ids`; None for no tokens."""
        wanted = tuple(token_ids)
        past = self._past(common_prefix(self._tokens, wanted))
        self._cache = self.prefill.prefill(wanted, past) if wanted else None
        self._tokens = wanted
        return self._cache

    def _past(self, tokens: int) -> KVCache | None:
        """The first `tokens` of the last cache, if they can be had."""
        if self._cache is None or tokens == 0:
            return None
        try:
            return self._cache.slice(0, tokens)
        except UnsupportedModelError:
            # Recurrent states cannot be cut: such a prompt is prefilled from its start.
            return None

    def _score_group(self, items: Sequence[Continuation]) -> list[TokenScores]:
        """Scores of continuations whose prefilled tokens are the same."""
        boundary = items[0].boundary
        cache = self.cache(items[0].prefilled)
        rows = [x.token_ids[boundary:] for x in items]
        own = [min(x.scored, len(row) - 1) for x, row in zip(items, rows, strict=True)]
        by_decoder = score_rows(self.decoder, rows, own, cache)
        return [
            self._score_prompt(item).then(scores) if item.scored > n else scores
            for item, n, scores in zip(items, own, by_decoder, strict=True)
        ]

    def _score_prompt(self, item: Continuation) -> TokenScores:
        """Scores of those scored tokens that the prefill module predicts."""
        start = item.first_scored - 1
        tokens = item.token_ids[start : item.boundary + 1]
        past = self.cache(item.token_ids[:start])
        (scores,) = score_rows(self.prefill.model, [tokens], [len(tokens) - 1], past)
        return scores


def _token_scores(logits_TV: torch.Tensor, tokens: Sequence[int]) -> TokenScores:
    # Half precision would round every log-probability to three digits.
    exact = torch.promote_types(logits_TV.dtype, torch.float32)
    logprobs_TV = logits_TV.to(exact).log_softmax(-1).cpu()
    targets_T = torch.tensor(list(tokens), dtype=torch.long)
    best = logprobs_TV.max(-1)
    return TokenScores(
        logprobs_TV.gather(-1, targets_T[:, None])[:, 0],
        best.indices == targets_T,
        best.values.exp(),
    )


def _groups(
    order: Sequence[int], items: Sequence[Continuation], rows: int
) -> Iterator[list[int]]:
    """`order` cut into runs of at most `rows` with the same prefilled tokens."""
    group: list[int] = []
    for i in order:
        if group and (
            len(group) == rows or items[i].prefilled != items[group[0]].prefilled
        ):
            yield group
            group = []
        group.append(i)
    if group:
        yield group
