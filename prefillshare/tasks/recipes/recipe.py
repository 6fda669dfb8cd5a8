"""A task out of data sets: one to train on, one, often of another kind, to test on."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Literal

from prefillshare.config import Config
from prefillshare.errors import DataError
from prefillshare.tasks.base import Marks, Sample, Split, Unit
from prefillshare.tasks.recipes.formats import FORMATS
from prefillshare.tasks.recipes.sources import Source
from prefillshare.tasks.sandbox.runner import Limits

logger = logging.getLogger(__name__)


class Recipe(Config):
    """A decoder's data; either split may be left out.

    `limits` bound each program that a response is run as.
    """

    kind: Literal["recipe"] = "recipe"
    name: str
    suffix: str = ""
    train: Source | None = None
    test: Source | None = None
    limits: Limits = Limits()

    def units(self, split: Split) -> list[Unit]:
        """One unit a row; a conversation's unit has a sample for each reply.

        Raises:
            DataError: the split is left out, cannot be had, or a row is unusable.
        """
        source = self.train if split == "train" else self.test
        if source is None:
            raise DataError(f"{self.name}: has no {split} data; set task.{split}")
        return [self._ready(unit, source) for unit in _units(source)]

    def score(self, sample: Sample, response: str) -> Marks:
        """As the format of the sample's data set has it; see `formats`.

        Raises:
            SandboxError: a program is to be run and this machine cannot confine it.
        """
        return FORMATS[sample.facts["format"]].score(sample, response, self.limits)

    def _ready(self, unit: Unit, source: Source) -> Unit:
        # A scorer must know the format: the two splits may differ.
        return tuple(
            replace(
                sample,
                suffix=self.suffix,
                facts={**sample.facts, "format": source.format},
                optional=source.drop_unusable,
            )
            for sample in unit
        )


def _units(source: Source) -> list[Unit]:
    unit_of = FORMATS[source.format].unit
    units, refused = [], []
    for row in source.load():
        try:
            units.append(unit_of(row))
        except DataError as error:
            if not source.drop_unusable:
                raise
            refused.append(error)
    if not units:
        raise DataError(f"{refused[0]}; no row of this data set is usable")
    if refused:
        logger.warning("left out %d rows, the first: %s", len(refused), refused[0])
    return units
