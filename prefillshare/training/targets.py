"""The layers that an adapter goes into, checked before PEFT is asked."""

from __future__ import annotations

import re

from torch import nn

from prefillshare.errors import ConfigError

_ALL_LINEAR = "all-linear"


def require_targets(targets: str | list[str], model: nn.Module) -> None:
    """Raise unless every one of `lora.targets` names a layer of `model`.

    Read as PEFT does: a list holds the ends of layers' names, a text is a regular
    expression of whole names. PEFT would pass over a name that it does not find beside
    one that it does.

    Raises:
        ConfigError: one names nothing.
    """
    if targets == _ALL_LINEAR:
        return
    names = [name for name, _ in model.named_modules() if name]
    if isinstance(targets, str):
        unknown = [] if _matches(targets, names) else [targets]
    else:
        ends = {name[i:] for name in names for i in _starts(name)}
        unknown = [target for target in targets if target not in ends]
    if unknown or not targets:
        linear = (n for n, each in model.named_modules() if isinstance(each, nn.Linear))
        known = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise ConfigError(
            f"lora.targets names {', '.join(map(repr, unknown)) or 'nothing'}, but no "
            f"layer of the decoder's model is called so; give a list of the ends of "
            f"names (such as {', '.join(known)}), a regular expression of whole names, "
            f"or {_ALL_LINEAR}"
        )


def _starts(name: str) -> list[int]:
    """Where the name's parts, which dots separate, begin."""
    return [0, *(i + 1 for i, sign in enumerate(name) if sign == ".")]


def _matches(pattern: str, names: list[str]) -> bool:
    try:
        return any(re.fullmatch(pattern, name) for name in names)
    except re.error as error:
        raise ConfigError(
            f"lora.targets {pattern!r} is no regular expression ({error}); correct it, "
            "or give a list of the ends of names"
        ) from error
