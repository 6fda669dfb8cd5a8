"""Where a decode worker receives caches of one kind."""

from __future__ import annotations

from prefillshare.errors import IdentityError
from prefillshare.kv.cache import KVCache
from prefillshare.kv.staging import Staging
from prefillshare.serving.messages import PrefillReply
from prefillshare.transfer.tickets.base import Importer, Ticket, TransferStats


class Inbox:
    """Fetches offered caches; its blocks are free again after each."""

    def __init__(self, staging: Staging, importer: Importer, timeout: float) -> None:
        self.staging = staging
        self._importer, self._timeout = importer, timeout

    def fetch(self, reply: PrefillReply, tokens: int) -> tuple[KVCache, TransferStats]:
        """The offered cache, which should cover `tokens`.

        Raises:
            IdentityError: it is in another format, or covers other tokens.
            CapacityError: there are too few blocks.
            TransferError: it could not be fetched whole.
        """
        form = self.staging.form
        if reply.kv_format != form.to_dict():
            raise IdentityError(
                f"the offered cache has format {reply.kv_format}, this worker reads "
                f"{form.to_dict()}; start both with the same dtype and block size"
            )
        if reply.tokens != tokens:
            raise IdentityError(
                f"the offered cache covers {reply.tokens} tokens, but the boundary is "
                f"at {tokens}"
            )
        blocks = self.staging.allocate(tokens)
        try:
            ticket = Ticket.from_dict(reply.ticket)
            buffers = self.staging.buffers(blocks)
            stats = self._importer.fetch(ticket, buffers, self._timeout)
            return self.staging.read(blocks, tokens), stats
        finally:
            self.staging.free(blocks)
