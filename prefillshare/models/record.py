"""What a decoder was trained for: kept beside its weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from prefillshare.errors import CheckpointError, ConfigError, IdentityError
from prefillshare.kv.identity import ModelId
from prefillshare.models.prompt import Boundary

RECORD_FILE = "prefillshare.json"
Prefill = Literal["shared", "own", "icarus", "recompute"]


@dataclass(frozen=True)
class DecoderRecord:
    """What a decoder was trained for: kept beside its weights.

    Attributes:
        model_id: digest of the prefill module (and base weights) it was trained on.
        prefill: whose cache it reads: the frozen module's, its own, or a mix of both
            (`training.schemes`), which is trained and evaluated but not served.
        boundary: where the prefill module stops reading.
        suffix: the agent suffix that the router appends.
        kv_formats: the formats it was trained with, as `KVFormat.to_dict`.
        weights_id: digest of the model that its weights started from, if that is
            another than the prefill module.
        bridge: digest of what maps the prefill module's cache for it, if anything does.
        bare: it learned its bridge alone; its weights are those it started from.
    """

    name: str
    model_id: str
    prefill: Prefill
    boundary: Boundary
    suffix: str
    kv_formats: tuple[dict[str, Any], ...] = field(default=())
    weights_id: str | None = None
    bridge: str | None = None
    bare: bool = False

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read the record of a saved decoder.

        Raises:
            ConfigError: there is no decoder in that directory.
            CheckpointError: it is not what this version writes.
        """
        path = directory / RECORD_FILE
        if not path.is_file():
            raise ConfigError(
                f"no decoder in {directory}: {RECORD_FILE} is missing; train one with "
                "`prefillshare train`, which writes OUTPUT/decoder"
            )
        try:
            fields = json.loads(path.read_text())
            fields["kv_formats"] = tuple(fields["kv_formats"])
            return cls(**fields)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} is not a decoder record "
                f"({getattr(error, 'strerror', None) or error}); give a directory that "
                "`prefillshare train` wrote"
            ) from error

    def require_base(self, base: ModelId) -> None:
        """Raise `IdentityError` unless the decoder was trained on `base`."""
        base.require(ModelId(self.model_id), f"decoder {self.name!r}")

    def require_weights(self, weights: ModelId | None) -> None:
        """Raise `IdentityError` unless its weights started from `weights`.

        None stands for the prefill module's.
        """
        wanted = self.weights_id and ModelId(self.weights_id)
        if wanted != weights:
            sides = [x.short if x else "the prefill module" for x in (wanted, weights)]
            raise IdentityError(
                f"decoder {self.name!r} started from the weights of {sides[0]}, but is "
                f"loaded over those of {sides[1]}; name the right model "
                "(`decoder_model` in training, the decoder's `model` in serving)"
            )

    def require_prefill(self, prefill: Prefill) -> None:
        """Raise `IdentityError` unless the decoder reads caches of this kind."""
        if self.prefill != prefill:
            raise IdentityError(
                f"decoder {self.name!r} was trained on its {self.prefill!r} prefill "
                f"and cannot read {prefill!r}; train one that can (`prefillshare train "
                f"--set prefill={prefill} --set output=…`), or name another"
            )

    def require_task(self, name: str, suffix: str) -> None:
        """Raise `IdentityError` unless the decoder was trained for this task."""
        if (self.name, self.suffix) != (name, suffix):
            raise IdentityError(
                f"a decoder of {self.name!r} with the suffix {self.suffix!r} is listed "
                f"for task {name!r}; name the decoder that was trained for it"
            )
