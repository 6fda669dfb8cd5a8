"""How each decoder is asked: its tokens, its context, where its cache is bridged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from prefillshare.kv.layout import KVFormat
from prefillshare.models.bridge.prompt import lay_out_across, tokenizer_of_decoder
from prefillshare.models.loading import model_context_tokens, model_layout
from prefillshare.models.prompt import Message, Prompt, lay_out
from prefillshare.models.record import DecoderRecord
from prefillshare.policy.placement import Side, bridge_side
from prefillshare.serving.messages import BridgeOrder
from prefillshare.serving.settings import DecoderSettings, ServeSettings


@dataclass(frozen=True)
class Errand:
    """What the prefill module reads of a prompt, and how that is bridged, and where."""

    token_ids: tuple[int, ...]
    order: BridgeOrder | None = None
    side: Side = "decode"

    def order_for(self, side: Side) -> BridgeOrder | None:
        """The order, if the worker on this side is to carry it out."""
        return self.order if side == self.side else None


class Lane:
    """One decoder, as the router knows it."""

    def __init__(
        self,
        settings: ServeSettings,
        decoder: DecoderSettings,
        template: PreTrainedTokenizerBase,
    ) -> None:
        self.record = DecoderRecord.load(decoder.path)
        self._template, self._form = template, settings.kv_format
        models = [settings.model, *([decoder.model] if decoder.model else [])]
        self.context_tokens = min(map(model_context_tokens, models))
        self._layouts = [model_layout(model) for model in models]
        self._own: PreTrainedTokenizerBase | None = None
        if decoder.model is not None:
            self._own = tokenizer_of_decoder(template, decoder.model)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """That of the decoder's answers."""
        return self._own or self._template

    @property
    def stop_ids(self) -> list[int]:
        """What ends an answer."""
        return [int(self.tokenizer.eos_token_id)]

    def lay_out(self, messages: Sequence[Message]) -> Prompt:
        """The prompt, in the decoder's tokens.

        Raises:
            DataError: see `models.prompt.lay_out`.
        """
        suffix, boundary = self.record.suffix, self.record.boundary
        if self._own is None:
            return lay_out(self._template, messages, suffix, boundary)
        return lay_out_across(self._template, self._own, messages, suffix, boundary)

    def errand(self, prompt: Prompt) -> Errand:
        """What the prefill worker is asked for `prompt`."""
        source = prompt.source
        ids = prompt.token_ids[: prompt.boundary]
        read = ids if source is None else source.token_ids
        if self.record.bridge is None:
            return Errand(read)
        rows = None if source is None else [list(row) for row in source.shares]
        order = BridgeOrder(
            bridge=self.record.bridge,
            source_tokens=len(read),
            token_ids=list(ids),
            shares=rows,
        )
        return Errand(read, order, self._side(order))

    def _side(self, order: BridgeOrder) -> Side:
        here, there = self._layouts
        return bridge_side(
            _bytes(self._form, here.elements_per_token, order.source_tokens),
            _bytes(self._form, there.elements_per_token, order.tokens),
        )


def _bytes(form: KVFormat, per_token: int, tokens: int) -> int:
    """What moves: whole blocks."""
    return (
        form.blocks(tokens) * form.block_tokens * per_token * form.torch_dtype.itemsize
    )
