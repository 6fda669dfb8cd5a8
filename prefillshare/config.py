"""Configuration: a YAML file and `--set key=value` overrides, checked in one place."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from prefillshare.errors import ConfigError


class Config(BaseModel):
    """Base of every configuration: immutable, and a key that it lacks is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


C = TypeVar("C", bound=Config)
Key = tuple[str | int, ...]


# Where no file was given.
_NO_FILE = "configuration"


def load_config(cls: type[C], path: Path | None, overrides: Sequence[str]) -> C:
    """The configuration in the file `path`, with `overrides` laid over it in order.

    Args:
        path: a YAML file; None means that only defaults and overrides apply.
        overrides: each `a.b=value`, the value being YAML; `a.0.b` reaches into a list.

    Raises:
        ConfigError: the file, an override, a key or a value is unusable.
    """
    data = {} if path is None else read_yaml(path)
    origins: dict[Key, str] = {}
    for override in overrides:
        origins[_apply(data, override)] = f"--set {override}"
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        where = _NO_FILE if path is None else str(path)
        found = error.errors(include_url=False)
        lines = [_describe(detail, cls, data, where, origins) for detail in found]
        raise ConfigError("\n".join(lines)) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file, unchecked.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        data = yaml.safe_load(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: there is no such file; name an existing YAML file"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); name a readable YAML file"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(
            f"{path}: is not YAML, correct the place named: {error}"
        ) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}: holds a {type(data).__name__} at the top level; "
            f"write `key: value` lines there"
        )
    return data


def _apply(data: dict[str, Any], override: str) -> Key:
    """Puts one override into `data` and returns the key that it set."""
    dotted, equals, text = override.partition("=")
    parts = dotted.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: write it as --set key.subkey=value")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(
            f"--set {override}: the value is not YAML, quote it: {error}"
        ) from error
    node: Any = data
    key: Key = ()
    for position, part in enumerate(parts):
        step: str | int = part
        if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            step = int(part)
        elif not isinstance(node, dict):
            raise ConfigError(
                f"--set {override}: {dotted_name(key)} is {node!r}, which has no "
                f"{part!r}; set {dotted_name(key)} as a whole"
            )
        key += (step,)
        if position == len(parts) - 1:
            node[step] = value
            break
        if isinstance(node, dict) and node.get(part) is None:
            node[part] = {}
        node = node[step]
    return key


def dotted_name(key: Key) -> str:
    """`("a", 0, "b")` as people write it: `a.0.b`."""
    return ".".join(str(part) for part in key)


def _describe(
    detail: ErrorDetails,
    cls: type[Config],
    data: dict[str, Any],
    where: str,
    origins: dict[Key, str],
) -> str:
    """One validation error as one line: where, which key, what is wrong, what to do."""
    key, known = _locate(detail, cls, data)
    for path, origin in origins.items():
        shared = min(len(path), len(key))
        if shared and path[:shared] == key[:shared]:
            where = origin
    name = dotted_name(key)
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(key[-1]), known, n=1)
        meant = dotted_name((*key[:-1], *near))
        hint = f"did you mean {meant!r}?" if near else f"known: {', '.join(known)}"
        return f"{where}: unknown key {name}; {hint}"
    if detail["type"] == "missing":
        file = "a file for --config," if where == _NO_FILE else "the file"
        return f"{where}: {name} is missing; set it in {file} or by --set {name}=…"
    message = detail["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "expected", 1)
    return f"{where}: {name + ': ' if name else ''}{detail['input']!r}: {message}"


def _locate(
    detail: ErrorDetails, cls: type[Config], data: dict[str, Any]
) -> tuple[Key, list[str]]:
    """The key that an error is about, and the keys known at its level.

    A location of pydantic's also holds the tags of unions: parts that are no key.
    """
    location = detail["loc"]
    key: Key = ()
    node: Any = data
    level: list[type[BaseModel]] = [cls]
    known: list[str] = []
    for position, part in enumerate(location):
        inside = isinstance(node, dict) and part in node
        inside = inside or (isinstance(node, list) and isinstance(part, int))
        absent = detail["type"] == "missing" and position == len(location) - 1
        if not inside and not absent:
            level = [model for model in level if model.__name__ == part] or level
            continue
        key += (part,)
        node = node[part] if inside else None
        known = sorted({name for model in level for name in model.model_fields})
        fields = [model.model_fields.get(str(part)) for model in level]
        annotations = [field.annotation for field in fields if field is not None]
        if annotations:
            level = [model for each in annotations for model in _models(each)]
    return key, known


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The configurations in a type such as `list[A] | B`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for each in get_args(annotation) for model in _models(each)]
