"""Transfers between processes of one host, through memory that they share."""

from prefillshare.transfer.shm.engine import ShmEngine
from prefillshare.transfer.shm.link import ShmLink
from prefillshare.transfer.shm.mapping import Mapping

__all__ = ["Mapping", "ShmEngine", "ShmLink"]
