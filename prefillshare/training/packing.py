"""Many examples as two rows: one that is prefilled, one that the decoder reads.

Prompts are cut into the pieces of a prefix tree, so that whatever several of them
have in common (a shared context, the earlier turns of a conversation, an agent's
instruction) is computed once, and nothing is padded. Each piece sees the pieces above
it in the tree and, causally, itself: attention over a row is what attention over every
single prompt would be, and the positions are the true ones.

    prompts        prefill row            decoder row
    a b c | x      [a b] [c] [d e]        [x …] sees [a b] [c]
    a b d e | y                           [y …] sees [a b] [d e]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from prefillshare.training.data import Example

Span = tuple[int, int]


@dataclass(frozen=True)
class Piece:
    """Consecutive tokens of a prompt.

    `start` is the position of the first in its prompt; `sees` are the stretches of
    the prefill row that all of the piece attends to.
    """

    ids: tuple[int, ...]
    start: int
    sees: tuple[Span, ...]


@dataclass(frozen=True)
class Row:
    """Pieces laid one behind the other: T tokens."""

    pieces: tuple[Piece, ...]

    @property
    def tokens(self) -> int:
        """T."""
        return sum(len(piece.ids) for piece in self.pieces)

    def ids(self, device: torch.device) -> torch.Tensor:
        """`[1, T]`."""
        flat = [token for piece in self.pieces for token in piece.ids]
        return torch.tensor([flat], dtype=torch.long, device=device)

    def positions(self, device: torch.device) -> torch.Tensor:
        """True positions `[1, T]`."""
        flat = [p.start + i for p in self.pieces for i in range(len(p.ids))]
        return torch.tensor([flat], dtype=torch.long, device=device)

    def before(self) -> list[int]:
        """Where in the row each token's predecessor stands; -1 for a prompt's first."""
        places: list[int] = []
        for piece, (start, stop) in zip(self.pieces, self.spans(), strict=True):
            first = piece.sees[-1][1] - 1 if piece.sees else -1
            places += [first, *range(start, stop - 1)]
        return places

    def spans(self) -> Iterator[Span]:
        """Where each piece lies in the row."""
        at = 0
        for piece in self.pieces:
            yield at, at + len(piece.ids)
            at += len(piece.ids)

    def visible(self, past: int) -> torch.Tensor:
        """Which of `past` tokens and of the row each token sees `[T, past + T]`, bool.

        Spans in `sees` count from the first of the past tokens.
        """
        mask = torch.zeros(self.tokens, past + self.tokens, dtype=torch.bool)
        for piece, (start, stop) in zip(self.pieces, self.spans(), strict=True):
            for low, high in piece.sees:
                mask[start:stop, low:high] = True
            own = torch.ones(stop - start, stop - start, dtype=torch.bool).tril()
            mask[start:stop, past + start : past + stop] = own
        return mask

    def reordered(self, order: Sequence[int]) -> Row:
        """Pieces `order[0], order[1] …`, each seeing what it saw.

        A piece must come behind those that it sees.
        """
        spans, at = list(self.spans()), 0
        moved: dict[Span, Span] = {}
        pieces = []
        for number in order:
            piece = self.pieces[number]
            sees = tuple(moved[span] for span in piece.sees)
            pieces.append(Piece(piece.ids, piece.start, sees))
            moved[spans[number]] = (at, at + len(piece.ids))
            at += len(piece.ids)
        return Row(tuple(pieces))


@dataclass(frozen=True)
class Packed:
    """Examples as rows. `read[i]` is example i's piece of the decoder row."""

    examples: tuple[Example, ...]
    prefill: Row
    read: tuple[Piece, ...]

    def decoder_row(self, which: Sequence[int]) -> Row:
        """The row of the examples `which`."""
        return Row(tuple(self.read[i] for i in which))

    def shared_paths(self, min_tokens: int) -> list[tuple[int, ...]]:
        """The paths through the tree, as numbers of pieces, that prompts share.

        Each ends with a piece of `min_tokens` or more that several examples read (a
        single example's own piece, if it is alone) and is no part of another.
        """
        pieces = self.prefill.pieces
        number = {span: i for i, span in enumerate(self.prefill.spans())}
        readers = Counter(span for piece in self.read for span in piece.sees)
        wanted = min(2, len(self.read))
        ends = [
            i
            for span, i in number.items()
            if readers[span] >= wanted and len(pieces[i].ids) >= min_tokens
        ]
        paths = [(*(number[span] for span in pieces[i].sees), i) for i in ends]
        inner = {i for path in paths for i in path[:-1]}
        return [path for path in paths if path[-1] not in inner]


def pack(examples: Sequence[Example]) -> Packed:
    """Lay out `examples` over the prefix tree of their prompts."""
    prefill, paths = prefix_tree(
        [example.prefill_ids for example in examples], _symbols(examples)
    )
    read = tuple(
        Piece(example.decoder_ids, example.prompt.boundary, path)
        for example, path in zip(examples, paths, strict=True)
    )
    return Packed(tuple(examples), prefill, read)


def _symbols(examples: Sequence[Example]) -> list[tuple[int, ...]] | None:
    """Numbers that are equal where prompts have token and source tokens in common.

    Two prompts may begin with the same decoder's tokens and yet, at the seam, with
    other tokens of the prefill module, so that a bridge makes them different keys.
    """
    if all(example.prompt.source is None for example in examples):
        return None
    numbers: dict[Hashable, int] = {}
    rows = []
    for example in examples:
        source = example.prompt.source
        assert source is not None, "examples of one pass have one kind of prompt"
        read: list[int] = [0]
        for token in source.token_ids:
            read.append(hash((read[-1], token)))
        keys = (
            (token, shares, read[1 + max(i for i, _ in shares)])
            for token, shares in zip(example.prefill_ids, source.shares, strict=True)
        )
        rows.append(tuple(numbers.setdefault(key, len(numbers)) for key in keys))
    return rows


def prefix_tree(
    prompts: Sequence[tuple[int, ...]],
    symbols: Sequence[tuple[int, ...]] | None = None,
) -> tuple[Row, list[tuple[Span, ...]]]:
    """The pieces of the prompts' prefix tree, and each prompt's path through it.

    With `symbols`, a token is another's equal where its symbol is, whatever its id.
    """
    ids, prompts = prompts, symbols or prompts
    pieces: list[Piece] = []
    paths: list[tuple[Span, ...]] = [()] * len(prompts)
    at = 0
    # Depth first without recursion: a conversation may have very many turns.
    stack: list[tuple[list[int], int, tuple[Span, ...]]] = []
    if prompts:
        stack.append((list(range(len(prompts))), 0, ()))
    while stack:
        members, depth, above = stack.pop()
        shared = _common_length([prompts[i] for i in members], depth)
        path = above
        if shared > depth:
            part = ids[members[0]][depth:shared]
            pieces.append(Piece(part, depth, above))
            path = (*above, (at, at + len(part)))
            at += len(part)
        longer = [i for i in members if len(prompts[i]) > shared]
        for i in set(members) - set(longer):
            paths[i] = path
        branches = _by_token(longer, prompts, shared)
        stack += [(branch, shared, path) for branch in reversed(branches)]
    return Row(tuple(pieces)), paths


def _common_length(prompts: Sequence[tuple[int, ...]], start: int) -> int:
    """How far all prompts agree, given that they do up to `start`."""
    # The lexicographic extremes agree exactly as far as all of them do.
    low, high = min(prompts), max(prompts)
    stop = min(len(low), len(high))
    return next((i for i in range(start, stop) if low[i] != high[i]), stop)


def _by_token(
    members: Iterable[int], prompts: Sequence[tuple[int, ...]], at: int
) -> list[list[int]]:
    branches: dict[int, list[int]] = {}
    for i in members:
        branches.setdefault(prompts[i][at], []).append(i)
    return list(branches.values())
