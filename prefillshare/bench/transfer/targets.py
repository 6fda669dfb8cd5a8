"""Whether each target is met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from prefillshare.bench.transfer.settings import Part, TransferBenchSettings
from prefillshare.bench.transfer.specs import Target

Row = Mapping[str, Any]


def judged(
    settings: TransferBenchSettings, ratios: Sequence[Row]
) -> list[dict[str, Any]]:
    """Each target against all that it means, `met` or not by the median ratio.

    Those of shapes that were not asked for are left out. `met` is None for what is only
    stated, and for what was not measured: it has no `ratio`.
    """
    first = f"prefillshare, {settings.ours[0].name}"
    return [
        one
        for part, targets in settings.targets.items()
        for target in targets
        if target.shape in settings.shapes
        for one in _each(part, target, target.ours or first, ratios)
    ]


def _each(
    part: Part, target: Target, ours: str, ratios: Sequence[Row]
) -> Iterator[dict[str, Any]]:
    wish = {"part": part, **target.model_dump(exclude={"ratio"}), "aim": target.ratio}
    wish["ours"] = ours
    measured = [each for each in ratios if _meant(each, target, ours)]
    if not measured:
        yield wish | {"direction": None, "ratio": None, "met": None}
    for each in measured:
        told = {key: each[key] for key in ("ours", "other", "case", "direction")}
        met = _met(target, each["ratio"]["median"])
        if not met and not _carried(target, each, ratios):
            met = None
        yield wish | told | {"ratio": each["ratio"], "met": met}


def _carried(target: Target, ratio: Row, ratios: Sequence[Row]) -> bool:
    """Whether anybody can reach the target in this case."""
    if target.carried_by is None:
        return True
    same = ("other", "shape", "measure", "case", "direction")
    return any(
        each["ours"] == target.carried_by
        and all(each[key] == ratio[key] for key in same)
        and _met(target, each["ratio"]["median"])
        for each in ratios
    )


def _meant(ratio: Row, target: Target, ours: str) -> bool:
    of = ratio["shape"], ratio["measure"]
    return (
        of == (target.shape, target.measure)
        and target.case in (None, ratio["case"])
        and fnmatchcase(ratio["ours"], ours)
        and fnmatchcase(ratio["other"], target.other)
    )


def _met(target: Target, ratio: float) -> bool | None:
    if target.ratio is None:
        return None
    return target.ratio <= ratio <= (target.at_most or ratio)
