"""What is minimised: the response's likelihood given a prefill cache.

With C the prefill module's cache of `prompt[:boundary]`, the loss is
``-mean log p_decoder(response_t | prompt[boundary:], response_<t, C)``
(PrefillShare, arXiv 2602.12029). Ordinary fine-tuning is the same with the decoder
as its own prefill module and gradients through the cache.

Shapes: B examples, R response tokens over all of them, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from prefillshare.errors import PromptLossError
from prefillshare.training.data import Example


@dataclass(frozen=True)
class ResponseScores:
    """Logits `[R, V]`, the tokens `[R]` that they should predict, and whose they are.

    `owner[r]` is the example, 0 to B - 1, of which r is a response token. Whatever the
    logits' precision, what is said of them is computed in float32 or better: half
    precision rounds likelihoods to three digits, and counts no further than 256.
    """

    logits: torch.Tensor
    labels: torch.Tensor
    owner: torch.Tensor

    def loss_sum(self) -> torch.Tensor:
        """Negative log-likelihood summed over all response tokens, in nats."""
        return functional.cross_entropy(self._exact(), self.labels, reduction="sum")

    def nll(self) -> torch.Tensor:
        """Per example, the mean negative log-likelihood per response token `[B]`."""
        losses = functional.cross_entropy(self._exact(), self.labels, reduction="none")
        return self._per_example(losses) / self._per_example(torch.ones_like(losses))

    def greedy_correct(self) -> torch.Tensor:
        """Per example, whether greedy decoding yields the response `[B]`, bool.

        Teacher forcing is exact here: as long as every argmax is right, greedy
        decoding sees the same prefix.
        """
        return self._per_example((~self.correct()).float()) == 0

    def correct(self) -> torch.Tensor:
        """Whether each response token is the arg max of its logits `[R]`, bool."""
        return self.logits.argmax(-1) == self.labels

    def confidence(self) -> torch.Tensor:
        """The probability of each arg max, right or wrong `[R]`."""
        logits_RV = self._exact()  # noqa: N806
        return (logits_RV.amax(-1) - logits_RV.logsumexp(-1)).exp()

    def _exact(self) -> torch.Tensor:
        return self.logits.to(torch.promote_types(self.logits.dtype, torch.float32))

    def _per_example(self, values: torch.Tensor) -> torch.Tensor:
        count = int(self.owner.max()) + 1
        return values.new_zeros(count).index_add(0, self.owner, values)


@dataclass(frozen=True)
class ResponsePlaces:
    """Where in a row of decoder inputs the response tokens are predicted.

    All `[R]`: the input position whose output predicts each, its id, its example.
    """

    at: torch.Tensor
    labels: torch.Tensor
    owner: torch.Tensor

    @classmethod
    def of(cls, examples: Sequence[Example], device: torch.device) -> ResponsePlaces:
        """For examples whose `decoder_ids` lie one behind the other.

        Raises:
            PromptLossError: a response does not start behind its boundary.
        """
        at: list[int] = []
        start = 0
        for index, example in enumerate(examples):
            _require_response_behind_boundary(index, example)
            # Position i predicts token i + 1: the last prompt token the first.
            first = start + len(example.prompt.remainder) - 1
            at += range(first, first + len(example.response))
            start += len(example.decoder_ids)
        labels = [token for example in examples for token in example.response]
        owner = [i for i, e in enumerate(examples) for _ in e.response]
        at_R, labels_R, owner_R = (  # noqa: N806
            torch.tensor(x, device=device) for x in (at, labels, owner)
        )
        return cls(at_R, labels_R, owner_R)


def _require_response_behind_boundary(index: int, example: Example) -> None:
    boundary, start = example.prompt.boundary, len(example.prompt.token_ids)
    # The decoder reads `start - 1` itself, to predict the first response token there.
    if not 0 <= boundary < start:
        raise PromptLossError(
            f"the response of example {index} starts at token {start}, and its "
            f"boundary is at {boundary}: the places of its loss would be prompt tokens "
            "of this or another example; lay prompts out with `models.prompt.lay_out`"
        )
