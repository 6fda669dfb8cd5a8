"""Every error that prefillshare raises on purpose.

::

    PrefillShareError
    ├── ConfigError              a config file, key or value is unusable
    ├── IdentityError            two sides belong to different models or KV formats
    ├── UnsupportedModelError    a model's KV cache cannot be shared (yet), and why
    │   └── BridgeError          one model's cache cannot be mapped into another's so
    ├── CheckpointError          a checkpoint cannot be written or read
    ├── DataError                an example cannot be trained or evaluated on
    │   └── PromptLossError      a loss would fall on prompt tokens
    ├── SandboxError             this machine cannot confine an untrusted program
    ├── CapacityError            memory for KV blocks is used up
    ├── RequestError             a client asked for something impossible
    │   ├── UnknownModelError
    │   └── ContextLengthError
    ├── WorkerError              a worker is dead, unreachable or failed
    └── TransferError            KV could not be moved
        ├── TransferClosed       this side closed the endpoint
        ├── TransferEnded        the peer ended the transfer in an orderly way
        ├── TransferBroken       the connection broke
        ├── TransferTimeout      the deadline passed
        ├── TransferRefused      the peer declined: unknown transfer, wrong capability
        ├── TransferIdentityError   another engine, site or region is there than meant
        ├── TransferIntegrityError  bytes arrived that are not those that were sent
        ├── UnknownPeerError     no engine is registered under a name
        └── DirectoryError       where engines are registered cannot be used

A message names the fact, the offending values and the remedy. `ValueError` is for
arguments that a caller in Python got wrong; `assert` is for invariants of our own.
"""

from __future__ import annotations


class PrefillShareError(Exception):
    """Base of every error raised on purpose."""


class ConfigError(PrefillShareError):
    """A config file, key or value is unusable."""


class IdentityError(PrefillShareError):
    """Two sides that must agree belong to different models or KV formats."""


class UnsupportedModelError(PrefillShareError):
    """A model's KV cache cannot be shared, for the reason given."""


class BridgeError(UnsupportedModelError):
    """One model's cache cannot be mapped into another's in the way asked for."""


class CheckpointError(PrefillShareError):
    """A checkpoint cannot be written or read."""


class DataError(PrefillShareError):
    """An example cannot be trained or evaluated on."""


class PromptLossError(DataError):
    """An example is cut so that a loss would fall on prompt tokens."""


class SandboxError(PrefillShareError):
    """This machine cannot confine an untrusted program, so it is not run."""


class CapacityError(PrefillShareError):
    """Memory for KV blocks is used up."""


class RequestError(PrefillShareError):
    """A client asked for something impossible."""


class UnknownModelError(RequestError):
    """The named model is not served here."""


class ContextLengthError(RequestError):
    """The prompt and the requested tokens do not fit into the context window."""


class WorkerError(PrefillShareError):
    """A worker is dead, unreachable or failed."""


class TransferError(PrefillShareError):
    """KV could not be moved."""


class TransferClosed(TransferError):
    """This side closed the endpoint."""


class TransferEnded(TransferError):
    """The peer ended the transfer in an orderly way."""


class TransferBroken(TransferError):
    """The connection broke."""


class TransferTimeout(TransferError):
    """The deadline passed."""


class TransferRefused(TransferError):
    """The peer declined: unknown transfer or wrong capability."""


class TransferIdentityError(TransferError):
    """Another engine, site or region is there than the one that was meant."""


class TransferIntegrityError(TransferError):
    """Bytes arrived that are not those that were sent."""


class UnknownPeerError(TransferError):
    """No engine is registered under the name of a host."""


class DirectoryError(TransferError):
    """Where engines are registered is gone, slow, or holds nonsense."""
