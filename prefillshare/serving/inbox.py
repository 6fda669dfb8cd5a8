"""Where a decode worker receives caches of one kind."""

from __future__ import annotations

from collections.abc import Sequence

from prefillshare.errors import IdentityError
from prefillshare.kv.cache import KVCache
from prefillshare.kv.layout import KVFormat, KVLayout
from prefillshare.kv.staging import Staging
from prefillshare.serving.host import Host
from prefillshare.serving.messages import PrefillReply
from prefillshare.transfer.base import Transfer, TransferStats


class Inbox:
    """Pulls offered caches; its blocks are free again after each."""

    def __init__(
        self, layout: KVLayout, form: KVFormat, blocks: int, host: Host, timeout: float
    ) -> None:
        self._host, self._timeout = host, timeout
        self._memory = host.pool(blocks, form.bytes_per_block(layout))
        self.staging = Staging(layout, form, blocks, "decode_blocks", self._memory.view)
        # Blocks that an agent which did not answer may still write to.
        self._stuck: list[tuple[Transfer, Sequence[int]]] = []

    def fetch(self, reply: PrefillReply, tokens: int) -> tuple[KVCache, TransferStats]:
        """The offered cache, which should cover `tokens`.

        Raises:
            IdentityError: it is in another format, or covers other tokens.
            CapacityError: there are too few blocks.
            TransferError: it could not be fetched whole.
        """
        self._check(reply, tokens)
        self._free_stuck()
        blocks = self.staging.allocate(tokens)
        transfer: Transfer | None = None
        try:
            transfer = self._host.pull(reply.grant, self._memory, blocks, self._timeout)
            stats = transfer.wait(self._timeout)
            return self.staging.read(blocks, tokens), stats
        finally:
            if transfer is None or transfer.done:
                self.staging.free(blocks)
            else:
                self._stuck.append((transfer, blocks))

    def _free_stuck(self) -> None:
        for transfer, blocks in self._stuck:
            if transfer.done:
                self.staging.free(blocks)
        self._stuck = [each for each in self._stuck if not each[0].done]

    def _check(self, reply: PrefillReply, tokens: int) -> None:
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
        blocks, size = form.blocks(tokens), self.staging.pool.bytes_per_block
        offered = reply.blocks, reply.bytes_per_block, reply.grant.size
        if offered != (blocks, size, blocks * size):
            raise IdentityError(
                f"the offered cache has {reply.blocks} blocks of "
                f"{reply.bytes_per_block} bytes, {reply.grant.size} bytes lent, but "
                f"{tokens} tokens are {blocks} blocks of {size}"
            )
