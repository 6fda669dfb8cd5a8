"""Units of examples that the training suites share."""

from __future__ import annotations

from prefillshare.models.prompt import Boundary
from prefillshare.models.tiny import tiny_tokenizer
from prefillshare.tasks.base import Sample, Unit
from prefillshare.training.data import Group, Tokenisation

CONTEXT = {"role": "system", "content": "order 417: lamp, Lyon; order 418: bed, Oslo"}


def tokenisation(boundary: Boundary = "last_token") -> Tokenisation:
    """The tiny tokenizer's."""
    return Tokenisation(tiny_tokenizer(), boundary, max_tokens=4096)


def shared_context() -> Unit:
    """Three questions of different lengths over one context."""
    asked = [
        ("ship 417", "lamp to Lyon"),
        ("ship 418", "bed"),
        ("list all", "417, 418"),
    ]
    return tuple(
        Sample((CONTEXT, {"role": "user", "content": request}), "answer", answer)
        for request, answer in asked
    )


def conversation() -> Unit:
    """Three assistant turns: every one's prompt holds the turns before it."""
    turns = [("which orders?", "417, 418"), ("the first?", "lamp"), ("where?", "Lyon")]
    messages: tuple[dict[str, str], ...] = (CONTEXT,)
    samples = []
    for request, answer in turns:
        messages = (*messages, {"role": "user", "content": request})
        samples.append(Sample(messages, "", answer))
        messages = (*messages, {"role": "assistant", "content": answer})
    return tuple(samples)


def independent() -> Unit:
    """Two examples that have no more than the template's first tokens in common."""
    return tuple(
        Sample(({"role": "user", "content": text},), "", answer)
        for text, answer in [("What is 2 + 2?", "4"), ("Name a town.", "Ghent")]
    )


UNITS = {
    "shared_context": shared_context,
    "conversation": conversation,
    "independent": independent,
}


def group(name: str, boundary: Boundary = "last_token") -> Group:
    """A unit of `UNITS`, tokenised."""
    return tokenisation(boundary).group(UNITS[name]())
