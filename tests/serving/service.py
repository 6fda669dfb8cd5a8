"""What the suites over a running service share."""

from __future__ import annotations

from pathlib import Path

from openai.types.chat import ChatCompletionMessageParam

from prefillshare.serving.settings import DecoderSettings, ServeSettings

CONTEXT = "order 417: item lamp, town Lyon, quantity 3, price 12. " * 4
MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": CONTEXT},
    {"role": "user", "content": "Process order 417."},
]
SUFFIXES = {"shipping": "you ship", "invoicing": "you bill", "alone": "you check"}
LIMIT = 24
ONE = b'{"model": "shipping", "messages": [{"role": "user", "content": "x"}], %s}'


def unheld(prefill: dict[str, int]) -> int:
    """Blocks of a prefill worker that no request holds, by its figures."""
    return prefill["free_blocks"] + prefill["indexed_blocks"]


def serve_settings(directory: Path, decoders: dict[str, Path]) -> ServeSettings:
    return ServeSettings(
        model=directory,
        decoders=[DecoderSettings(name=n, path=p) for n, p in decoders.items()],
        port=0,
        dtype="float64",
        threads=1,
    )
