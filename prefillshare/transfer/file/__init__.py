"""Transfers between memory and files."""

from prefillshare.transfer.file.engine import FileEngine, FileLink, FileRegion

__all__ = ["FileEngine", "FileLink", "FileRegion"]
