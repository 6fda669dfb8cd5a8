"""Text that others rendered, laid out and cut as it would be served.

Evaluation suites render prompts themselves and hand over text. `models.prompt` lays
out messages; this places the same boundary in text.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from prefillshare.errors import ContextLengthError
from prefillshare.evals.likelihood import Continuation
from prefillshare.evals.perplexity import sliding_windows
from prefillshare.models.prompt import Message, common_prefix
from prefillshare.models.record import DecoderRecord

logger = logging.getLogger(__name__)


class ServedPrompts:
    """Renders chats for one decoder and cuts rendered text at its boundary.

    Where the boundary lies:

    - `last_token`: before the last token of the context, whatever the context is.
    - `suffix`: where the agent suffix begins, if the text was rendered by `render`.
      Text without the chat template holds no suffix; all of it is shared, and the
      boundary is before its last token. That is not what such a decoder was trained
      on, so it is logged once.

    Args:
        max_length: tokens that are read at most; what is longer loses its beginning,
            as a prompt does in the harness's own models.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        record: DecoderRecord,
        max_length: int,
    ) -> None:
        self.tokenizer, self.record = tokenizer, record
        self.max_length = max_length
        self._tail = self._suffix_text()
        self._warned = False

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True
    ) -> str:
        """The chat with the decoder's suffix as its last user message.

        Without a generation prompt the last message is an answer begun by the
        assistant: the suffix stands before it, and it is left open.
        """
        laid_out = list(messages)
        if self.record.suffix:
            at = len(laid_out) - (0 if add_generation_prompt else 1)
            laid_out.insert(at, {"role": "user", "content": self.record.suffix})
        return self._apply(laid_out, add_generation_prompt)

    @property
    def prefix_id(self) -> int:
        """The token that stands for an empty context: beginning or end of text."""
        begin: Any = self.tokenizer.bos_token_id
        return int(begin if begin is not None else self.tokenizer.eos_token_id)

    def encode(self, text: str, add_special_tokens: bool | None = None) -> list[int]:
        """Tokens of `text`, by default with the special ones that the tokenizer adds.

        None are added to text that begins with one, as a chat template may write it.
        """
        if add_special_tokens is None:
            begun = text.startswith(str(self.tokenizer.decode([self.prefix_id])))
            add_special_tokens = not begun
        return list(self.tokenizer.encode(text, add_special_tokens=add_special_tokens))

    def continuation(
        self, text: str, context: Sequence[int], scored: Sequence[int]
    ) -> Continuation:
        """`scored` after `context`, cut where the prompt `text` is cut when served.

        Args:
            text: the context as it was rendered; empty if there is none.
            context, scored: tokens of both, split from those of both together. A token
                that the sequel of the text changed is never prefilled.

        Raises:
            ContextLengthError: more tokens are to be scored than can be read.
        """
        if len(scored) > self.max_length:
            raise ContextLengthError(
                f"a continuation has {len(scored)} tokens, but max_length is "
                f"{self.max_length}; raise it, or score a text without context"
            )
        whole = (*context, *scored)
        at = len(context) - 1
        if text:
            # With the space at its end, which the harness moves to the continuation.
            prompt = self.encode(text)
            unchanged = common_prefix(prompt, whole)
            at = min(self._boundary(text, prompt), unchanged - 1, len(whole) - 2)
        dropped = max(0, len(whole) - self.max_length - 1)
        return Continuation(whole[dropped:], len(scored), max(0, at - dropped))

    def windows(self, text: str) -> Iterator[tuple[list[int], list[int]]]:
        """Contexts and scored tokens that cover `text`, each token scored once."""
        ids = [self.prefix_id, *self.encode(text)]
        for each in sliding_windows(len(ids), self.max_length, self.max_length):
            yield ids[each.start : each.first], ids[each.first : each.stop]

    def cut(
        self, context: str, max_tokens: int
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tokens before and after the boundary of a prompt to be answered.

        Raises:
            ContextLengthError: an answer of `max_tokens` leaves no room for a prompt.
        """
        room = self.max_length - max_tokens
        if room < 1:
            raise ContextLengthError(
                f"{max_tokens} tokens to generate leave no room for a prompt in "
                f"{self.max_length}; generate fewer, or raise max_length"
            )
        ids = tuple(self.encode(context)) or (self.prefix_id,)
        dropped = max(0, len(ids) - room)
        at = max(dropped, self._boundary(context, ids))
        return ids[dropped:at], ids[at:]

    def _boundary(self, context: str, token_ids: Sequence[int]) -> int:
        """How many of `token_ids`, those of `context`, the prefill module reads."""
        last = max(0, len(token_ids) - 1)
        if self.record.boundary == "last_token":
            return last
        start = context.rfind(self._tail)
        if start < 0:
            self._warn()
            return last
        return min(common_prefix(token_ids, self.encode(context[:start])), last)

    def _apply(self, messages: Sequence[Message], generation: bool) -> str:
        rendered: Any = self.tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=generation,
            continue_final_message=not generation,
        )
        return str(rendered)

    def _suffix_text(self) -> str:
        """What the template writes after the shared messages."""
        probe = [{"role": "user", "content": "x"}]
        shared: Any = self.tokenizer.apply_chat_template(probe, tokenize=False)
        full = self.render(probe)
        return full[len(os.path.commonprefix([full, str(shared)])) :]

    def _warn(self) -> None:
        if not self._warned:
            logger.warning(
                "decoder %r was trained with its suffix after the shared context, and "
                "this text has none; apply the chat template for its own boundary",
                self.record.name,
            )
        self._warned = True
